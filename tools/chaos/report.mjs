/** The laboratory's report as one HTML page: a table, and a chart for each experiment. Takes what run.mjs has read. */

const kinds = [
  ['final', 'final codes', '#2f7d4f'],
  ['open', 'codes 1, 153, 220, 255', '#c9a227'],
  ['unavailable', '503', '#7a7f87'],
  ['failed', 'no answer', '#b3392f'],
];
const size = { width: 960, height: 160, left: 48, bottom: 22 };

/** `results`: the files of the experiments and their controls, in order. Answers the page's text. */
export function reportPage(results, { short, node }) {
  const rows = results.map(rowOf).join('\n');
  const charts = results
    .filter((each) => each.answers?.length > 0)
    .map(chartOf)
    .join('\n');
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Tolem under faults</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1d2126; }
  table { border-collapse: collapse; width: 100%; } td, th { text-align: left; vertical-align: top; padding: .35rem .6rem; }
  tr { border-top: 1px solid #dde1e6; } .good { color: #2f7d4f; } .bad { color: #b3392f; font-weight: 600; }
  .control td { color: #5b626b; } .figures { font-size: 13px; } svg { width: 100%; height: auto; } text { font-size: 11px; fill: #5b626b; }
  .legend span { margin-right: 1.2rem; } .legend i { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem; }
</style>
<h1>Tolem under faults</h1>
<p>${short ? 'The short form' : 'The full form'}, Node ${escaped(node)}, ${new Date().toISOString().slice(0, 16).replace('T', ' ')} UTC.
Every control is the same experiment with the guarded rule broken on purpose: it must be caught.</p>
<table><tr><th></th><th>fault</th><th>verdict</th><th>time</th><th>figures</th></tr>
${rows}
</table>
<h2>Answers per second</h2>
<p class="legend">${kinds.map(([, text, colour]) => `<span><i style="background:${colour}"></i>${text}</span>`).join('')}
<span>dashed: a fault</span></p>
${charts}
</html>
`;
}

export const isCaught = ({ expected, rules }) => expected.every((rule) => rules.includes(rule));

function rowOf(each) {
  const isControl = each.kind === 'control';
  const isRun = each.skipped === undefined;
  const good =
    isRun && (isControl ? isCaught(each) : each.error === undefined && each.violations.length === 0);
  const words = isControl ? ['caught', 'not caught'] : ['held', isRun ? 'broken' : 'not run'];
  const figures = Object.entries(each.figures ?? {}).map(
    ([name, value]) => `${escaped(name)} <b>${escaped(value)}</b>`,
  );
  const broken = (each.violations ?? [])
    .slice(0, 10)
    .map(({ rule, object, found }) => `<div class="bad">${escaped(`${rule}: ${object}: ${found}`)}</div>`);
  const why = each.skipped ?? each.error;
  const error = why === undefined ? '' : `<div class="bad">${escaped(why)}</div>`;
  return `<tr class="${isControl ? 'control' : ''}"><td>${isControl ? '' : each.number}</td>
<td>${isControl ? `control: ${escaped(each.name)}` : escaped(each.name)}</td>
<td class="${good ? 'good' : 'bad'}">${words[good ? 0 : 1]}</td><td>${each.seconds} s</td>
<td class="figures">${figures.join(' · ')}${error}${broken.join('')}</td></tr>`;
}

/** Stacked bars, at most one for two pixels: longer runs are summed by several seconds. */
function chartOf({ number, name, answers, faults }) {
  const { width, height, left, bottom } = size;
  const step = Math.ceil(answers.length / ((width - left) / 2));
  const bars = [];
  for (let at = 0; at < answers.length; at += step) {
    const part = answers.slice(at, at + step);
    bars.push(kinds.map(([kind]) => part.reduce((sum, each) => sum + each[kind], 0) / part.length));
  }
  const most = Math.max(1, ...bars.map((bar) => bar.reduce((sum, each) => sum + each, 0)));
  const x = (second) => left + (second / answers.length) * (width - left);
  const y = (count) => (height - bottom) * (1 - count / most) + 6;
  const barWidth = Math.max(1, ((width - left) / bars.length) * 0.9);
  const drawn = bars.map((bar, index) => {
    let below = 0;
    return bar
      .map((count, kind) => {
        const top = below + count;
        const rect = `<rect x="${x(index * step).toFixed(1)}" y="${y(top).toFixed(1)}" width="${barWidth.toFixed(1)}" height="${(y(below) - y(top)).toFixed(1)}" fill="${kinds[kind][2]}"/>`;
        below = top;
        return count > 0 ? rect : '';
      })
      .join('');
  });
  const marks = faults.map(
    ({ second, what }) =>
      `<line x1="${x(second).toFixed(1)}" x2="${x(second).toFixed(1)}" y1="6" y2="${y(0)}" stroke="#1d2126" stroke-dasharray="2 3" opacity=".45"><title>${escaped(what)}</title></line>`,
  );
  const ticks = [0, 0.5, 1].map(
    (share) =>
      `<text x="${left - 6}" y="${y(most * share) + 4}" text-anchor="end">${Math.round(most * share)}</text>`,
  );
  const times = [0, 0.25, 0.5, 0.75, 1].map((share) => {
    const anchor = share === 0 ? 'start' : share === 1 ? 'end' : 'middle';
    return `<text x="${x(answers.length * share)}" y="${height + 2}" text-anchor="${anchor}">${Math.round(answers.length * share)} s</text>`;
  });
  return `<h3>${number}. ${escaped(name)}</h3>
<svg viewBox="0 0 ${width} ${height + 8}" role="img">${drawn.join('')}${marks.join('')}${ticks.join('')}${times.join('')}</svg>`;
}

function escaped(text) {
  return String(text).replace(/[&<>"]/g, (each) => `&#${each.charCodeAt(0)};`);
}

/**
 * Providers' XML, read strictly: well-formed or nothing. Without a DTD there are no entities but the five of XML, so
 * that nothing expands; the sender has cut what is too long.
 */
import { SaxesParser } from 'saxes';

export interface Element {
  /** As written, with its prefix. */
  readonly name: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly children: readonly Element[];
  /** Of the element itself, trimmed. */
  readonly text: string;
}

const depthMax = 32;
const elementsMax = 10_000;

/** The root, or null: not well-formed, with a document type, too deep or too much. */
export function readXml(text: string): Element | null {
  const open: { name: string; attributes: Record<string, string>; children: Element[]; text: string }[] = [];
  let root: Element | null = null;
  let count = 0;
  const parser = new SaxesParser();
  const refuse = () => {
    throw new NotRead();
  };
  parser.on('error', refuse);
  parser.on('doctype', refuse);
  parser.on('opentag', ({ name, attributes }) => {
    count += 1;
    if (count > elementsMax || open.length >= depthMax) refuse();
    open.push({ name, attributes: { ...attributes }, children: [], text: '' });
  });
  const addText = (piece: string) => {
    const inside = open.at(-1);
    if (inside) inside.text += piece;
  };
  parser.on('text', addText);
  parser.on('cdata', addText);
  parser.on('closetag', () => {
    const closed = open.pop()!;
    const element = { ...closed, text: closed.text.trim() };
    const parent = open.at(-1);
    if (parent) parent.children.push(element);
    else root = element;
  });
  try {
    parser.write(text).close();
  } catch (error) {
    if (error instanceof NotRead) return null;
    throw error;
  }
  return root;
}

class NotRead extends Error {}

/** The child of that name, if there is exactly one: two that may say different things say nothing. */
export function childOf(element: Element, name: string): Element | null {
  const found = element.children.filter((child) => child.name === name);
  return found.length === 1 ? found[0]! : null;
}

/** A text for between tags or in an attribute. */
export function escapeXml(text: string): string {
  return text.replace(/[&<>"']/g, (each) => `&#${each.charCodeAt(0)};`);
}

/** How connectors read their settings: all of a shape, or a plain sentence that names the setting. */
import type { z } from 'zod';

/** `problems`: what each setting must be, by its name. */
export function readSettings<T>(
  shape: z.ZodType<T>,
  problems: Readonly<Record<string, string>>,
  given: Readonly<Record<string, unknown>>,
): T {
  const parsed = shape.safeParse(given);
  if (parsed.success) return parsed.data;
  const name = String(parsed.error.issues[0]!.path[0]);
  throw new Error(`${name}: ${problems[name]}`);
}

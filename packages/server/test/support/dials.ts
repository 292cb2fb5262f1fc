/**
 * How a payment ends at a simulator that repeats what it said first: the end of its account, its final code (null: the
 * provider never says), and how often it is executed. What each does: providers/simulators/simulator.ts.
 */
export const dials: readonly (readonly [end: string, code: number | null, executions: number])[] = [
  ['1234', 0, 1],
  ['0005', 5, 0],
  ['0007', 7, 0],
  ['0241', 241, 0],
  ['0242', 242, 0],
  ['0300', 300, 0],
  ['0001', 0, 1],
  ['0002', 300, 0],
  ['0090', 0, 1],
  ['0091', 0, 1],
  ['0092', 0, 1],
  ['0093', null, 0],
  ['0094', 0, 1],
  ['0095', 0, 1],
  ['0096', null, 0],
  ['0080', 0, 1],
  ['0081', 0, 1],
  ['0082', 0, 1],
  ['0083', 0, 1],
  ['0084', 0, 1],
];

import { defineConfig } from 'vitest/config';

// The settings of whoever runs the tests are not those of the servers that the tests start.
for (const name of Object.keys(process.env)) {
  if (name.startsWith('TOLEM_')) delete process.env[name];
}

// These judge by seconds, and on a busy machine they say so: for `npm run chaos` only, until they are steadier.
const timed = ['04', '06', '10', '11', '14'].map((number) => `test/chaos/${number}-*.test.ts`);

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    exclude: process.env.CHAOS_SIZE === undefined ? timed : [],
    globalSetup: 'test/support/database.ts',
    // Some files kill servers and count what survives: they must not share the machine with others.
    pool: 'forks',
    fileParallelism: false,
    testTimeout: 60_000,
    hookTimeout: 120_000,
  },
});

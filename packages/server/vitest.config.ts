import { defineConfig } from 'vitest/config';

// The settings of whoever runs the tests are not those of the servers that the tests start.
for (const name of Object.keys(process.env)) {
  if (name.startsWith('TOLEM_')) delete process.env[name];
}

// These judge by seconds or have a control that needs luck: for `npm run chaos` only, until many runs were steady.
const unsteady = ['04', '06', '10', '11', '14'].map((number) => `test/chaos/${number}-*.test.ts`);

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    exclude: process.env.CHAOS_SIZE === undefined ? unsteady : [],
    globalSetup: 'test/support/database.ts',
    // Some files kill servers and count what survives: they must not share the machine with others.
    pool: 'forks',
    fileParallelism: false,
    testTimeout: 60_000,
    hookTimeout: 120_000,
  },
});

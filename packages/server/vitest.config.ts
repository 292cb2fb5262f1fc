import { defineConfig } from 'vitest/config';

// The settings of whoever runs the tests are not those of the servers that the tests start.
for (const name of Object.keys(process.env)) {
  if (name.startsWith('TOLEM_')) delete process.env[name];
}

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: 'test/support/database.ts',
    // Some files kill servers and count what survives: they must not share the machine with others.
    pool: 'forks',
    fileParallelism: false,
    testTimeout: 60_000,
    hookTimeout: 120_000,
  },
});

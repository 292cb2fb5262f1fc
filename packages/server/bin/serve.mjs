#!/usr/bin/env node
// The centre alone: no demo data unless TOLEM_DEMO=on. For service managers, and for programs that start it.
import { main } from '../dist/main.js';

await main({ demo: false });

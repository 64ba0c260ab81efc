// A browser that does what it is told: one command in JSON on each line of stdin, one answer on each line of stdout.
// Its one argument is the browser's program; it ends with its stdin, and nothing of it stays.
import { createInterface } from 'node:readline';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const home = mkdtempSync(join(tmpdir(), 'protem-browser-'));
const flags = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage', '--force-color-profile=srgb'];
const browser = await chromium.launch({ executablePath: process.argv[2], headless: true, args: flags,
  env: { ...process.env, HOME: home } });

// Each window has cookies of its own, as the browsers of different people.
const windows = new Map();

const open = async ({ window, script = true, dark = false, width = 1100, height = 800, bypass = false }) => {
  const context = await browser.newContext({ javaScriptEnabled: script, colorScheme: dark ? 'dark' : 'light',
    viewport: { width, height }, bypassCSP: bypass, locale: 'en', timezoneId: 'UTC' });
  context.setDefaultTimeout(30000);
  const page = await context.newPage();
  const trouble = [];
  page.on('pageerror', (error) => trouble.push(String(error)));
  page.on('console', (line) => { if (line.type() === 'error') trouble.push(line.text()); });
  page.on('dialog', (dialog) => { trouble.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  windows.set(window, { context, page, trouble });
};

const commands = {
  go: async ({ page }, { url }) => {
    const answer = await page.goto(url, { waitUntil: 'load' });
    return { status: answer.status(), url: page.url(), headers: answer.headers() };
  },
  click: async ({ page }, { at }) => { await page.locator(at).click(); },
  fill: async ({ page }, { at, text }) => { await page.locator(at).fill(text); },
  choose: async ({ page }, { at, text }) => { await page.locator(at).selectOption(text); },
  check: async ({ page }, { at, on }) => { await page.locator(at).setChecked(on); },
  press: async ({ page }, { key }) => { await page.keyboard.press(key); },
  // Waits until there is one, as long as a browser is patient.
  wait: async ({ page }, { at }) => { await page.locator(at).first().waitFor(); },
  gone: async ({ page }, { at }) => { await page.locator(at).first().waitFor({ state: 'detached' }); },
  text: async ({ page }, { at }) => page.locator(at).first().innerText(),
  count: async ({ page }, { at }) => page.locator(at).count(),
  url: async ({ page }) => page.url(),
  run: async ({ page }, { code }) => page.evaluate(code),
  cookies: async ({ context }) => context.cookies(),
  plant: async ({ context }, { cookies }) => { await context.addCookies(cookies); },
  clear: async ({ context }) => { await context.clearCookies(); },
  trouble: async ({ trouble }) => trouble.splice(0),
  shot: async ({ page }, { file, full = true }) => { await page.screenshot({ path: file, fullPage: full, animations: 'disabled' }); },
  // What keeps people out (axe-core), with where.
  axe: async ({ page }) => {
    await page.evaluate(axe);
    const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
    return found.violations.map(({ id, impact, nodes }) => ({ id, impact, at: nodes.map((node) => node.html).slice(0, 5) }));
  },
  close: async ({ context }, { window }) => { windows.delete(window); await context.close(); },
};

const answer = async (line) => {
  const asked = JSON.parse(line);
  if (asked.do === 'open') return open(asked);
  return commands[asked.do](windows.get(asked.window), asked);
};

console.log(JSON.stringify({ ready: browser.version() }));
for await (const line of createInterface({ input: process.stdin })) {
  try {
    console.log(JSON.stringify({ ok: (await answer(line)) ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
await browser.close();
rmSync(home, { recursive: true, force: true });

// What a page does while it is open: it counts down, and asks for itself again when the broker says that something changed.
// Everything works without it.
(() => {
  'use strict';
  const said = document.getElementById('said');
  const topic = document.body.dataset.live;
  let source = null;

  const left = (until) => {
    const seconds = Math.max(0, Math.floor((Date.parse(until) - Date.now()) / 1000));
    const pad = (part) => String(part).padStart(2, '0');
    const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
    const clock = hours ? `${hours}:${pad(minutes)}:${pad(seconds % 60)}` : `${minutes}:${pad(seconds % 60)}`;
    return seconds ? `, ${clock} left` : ', its time is over';
  };
  const count = () => {
    for (const one of document.querySelectorAll('[data-until]')) one.textContent = left(one.dataset.until);
  };

  // A decision that somebody has begun to make is never made anew for them: what they chose would be gone, and their click
  // would say something else. It stays as it is, can be sent no more, and they look at the page again.
  const begun = () => document.querySelector('[data-begun]');
  const stop = (part) => {
    if ('changed' in part.dataset) return;
    part.dataset.changed = '';
    for (const button of part.querySelectorAll('form button')) button.disabled = true;
    part.querySelector('.changed').hidden = false;
    said.textContent = part.querySelector('.changed').innerText;
  };
  const again = () => {
    const part = begun();
    if (part) stop(part); else location.reload();
  };
  const begins = (event) => {
    const part = event.target.closest('[data-decides]');
    if (part) part.dataset.begun = '';
  };

  // Takes over what changed, part by part: what somebody is typing stays.
  const take = (fresh) => {
    let changed = false;
    // Another page by now. Asked first: what is taken over is no longer in the fresh one.
    if ([...document.querySelectorAll('main [data-part]')].some((old) => !fresh.getElementById(old.id))) { again(); return; }
    for (const part of fresh.querySelectorAll('[data-part]')) {
      const old = document.getElementById(part.id);
      if (!old) { again(); return; }
      const same = 'version' in part.dataset ? part.dataset.version === old.dataset.version : part.isEqualNode(old);
      if (same) continue;
      if ('begun' in old.dataset) { stop(old); continue; }
      const focus = old.contains(document.activeElement) ? document.activeElement.id : '';
      const typed = new Map([...old.querySelectorAll('input:not([type])')].map((field) => [field.id, field.value]));
      old.replaceWith(document.adoptNode(part));
      for (const [id, value] of typed) { const field = document.getElementById(id); if (field) field.value = value; }
      if (focus) document.getElementById(focus)?.focus();
      // What moves all the time is not read out each time.
      if (!('quiet' in part.dataset)) changed = true;
    }
    if (changed) said.textContent = 'This page has changed.';
    count();
  };

  const look = async () => {
    const answer = await fetch(location.pathname + location.search, { headers: { 'x-protem-live': '1' }, credentials: 'same-origin' });
    if (answer.redirected || !answer.ok) { again(); return; }
    take(new DOMParser().parseFromString(await answer.text(), 'text/html'));
  };

  const follow = () => {
    if (!topic || source) return;
    source = new EventSource(`/ui/events/${topic}`);
    source.addEventListener('changed', () => { look().catch(() => {}); });
    source.addEventListener('ended', () => { source.close(); again(); });
    source.addEventListener('error', () => {
      // A browser gives up for good when the answer is no stream; the page may be another one by now.
      if (source.readyState === EventSource.CLOSED) { source = null; setTimeout(follow, 5000); }
    });
  };

  // A page that nobody sees holds no connection; browsers have few for one host.
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) { source?.close(); source = null; } else { follow(); }
  });
  for (const kind of ['input', 'change']) document.addEventListener(kind, begins);
  document.addEventListener('click', (event) => { if (event.target.closest('[data-again]')) location.reload(); });
  // A form is sent once.
  document.addEventListener('submit', (event) => {
    if (event.target.dataset.sent || event.target.closest('[data-changed]')) event.preventDefault(); else event.target.dataset.sent = '1';
  });
  window.addEventListener('pageshow', () => { for (const form of document.forms) delete form.dataset.sent; });

  count();
  setInterval(count, 1000);
  if (!document.hidden) follow();
})();

// What the page says and asks.

import { Problem } from './engines.js';

export const $ = (id) => document.getElementById(id);

export const countOf = ({ length }, word) => `${length} ${word}${length === 1 ? '' : 's'}`;

export const someOf = (texts) => (texts.length > 5 ? `${texts.slice(0, 5).join(', ')} and ${texts.length - 5} more` : texts.join(', '));

export const pressed = (act, on) => {
  for (const button of document.querySelectorAll(`[data-act="${act}"][aria-pressed]`)) {
    button.setAttribute('aria-pressed', String(on));
  }
};

let noteTimer;

/** Show a sentence for a moment, and say it to screen readers. */
export function tell(text, bad = false) {
  $('note').textContent = text;
  $('note').classList.toggle('bad', bad);
  $('note').hidden = !text;
  (bad ? $('alert') : $('live')).textContent = text;
  clearTimeout(noteTimer);
  if (text) noteTimer = setTimeout(() => { $('note').hidden = true; }, bad ? 8000 : 2500);
}

/** Say a sentence to screen readers only: it describes what is visible. */
export const say = (text) => { $('live').textContent = text; };

export const problemText = (error) =>
  error instanceof Problem ? error.message : `Something went wrong in the page: ${error.message}`;

/** Show a dialog; whether it was closed with its main button. */
export function agreed(dialog) {
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener('close', () => done(dialog.returnValue === 'ok'), { once: true });
  });
}

let asked = Promise.resolve(); // the questions before: there is one dialog for all

/** Ask a question; whether its main button was chosen, or 'other'. */
export function question(...words) {
  asked = asked.then(() => ask(...words));
  return asked;
}

async function ask(title, lines, yes, no, other = '') {
  $('question-other').textContent = other;
  $('question-other').hidden = !other;
  $('question-title').textContent = title;
  $('question-yes').textContent = yes;
  $('question-no').textContent = no;
  $('question').replaceChildren(...lines.map((line) => Object.assign(document.createElement('p'), { textContent: line })));
  const yesChosen = await agreed($('question-dialog'));
  return $('question-dialog').returnValue === 'other' ? 'other' : yesChosen;
}

let token = null; // the answer to come: several requests ask for it once
export function askToken(wrong) {
  token ??= (async () => {
    $('token-wrong').hidden = !wrong;
    const yes = await agreed($('token-dialog'));
    const text = $('token').value.trim();
    $('token').value = '';
    token = null;
    return yes ? text : null;
  })();
  return token;
}

// The panel beside the image: its faces, points and measurements.

import { isAbsent, stateOf } from './labels.js';
import { canMeasure, measure } from './measurement.js';
import { $ } from './messages.js';
import { currentFace, currentPoint, names, page, state } from './state.js';
import { confidenceColor, plainName } from './viewer.js';

export function refreshFaces(faces) {
  const box = $('faces');
  const had = box.contains(document.activeElement);
  box.replaceChildren(...faces.map((face, n) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.setAttribute('role', 'radio');
    button.setAttribute('aria-checked', String(n === state.face));
    button.tabIndex = n === state.face ? 0 : -1;
    button.textContent = String(n + 1);
    const about = face.drawn ? 'box drawn by hand' : face.score === null ? '' : `score ${face.score.toFixed(2)}`;
    button.setAttribute('aria-label', `Face ${n + 1}${about ? `, ${about}` : ''}`);
    button.title = about;
    button.addEventListener('click', () => page.select(n, null));
    return button;
  }));
  if (had) box.querySelector('[aria-checked="true"]')?.focus();
}

export function refreshPoints() {
  const face = currentFace();
  const list = $('points');
  if (list.dataset.names !== names().join('\n')) {
    list.dataset.names = names().join('\n');
    list.replaceChildren(...names().map((name, k) => {
      const item = document.createElement('li');
      item.id = `point-${k}`;
      item.setAttribute('role', 'option');
      for (const part of ['swatch', 'name', 'confidence']) {
        const span = document.createElement('span');
        span.className = part;
        item.append(span);
      }
      item.querySelector('.name').textContent = plainName(name);
      item.addEventListener('click', () => {
        page.select(state.face, k);
        $('canvas').focus({ preventScroll: true }); // the arrow keys move it now
      });
      return item;
    }));
  }
  list.hidden = !face;
  const suspects = (state.suspected.get(state.current) ?? []).filter((each) => each.face === state.face);
  names().forEach((name, k) => {
    const item = list.children[k];
    const point = face?.points[k];
    if (!point) return;
    const kind = stateOf(point);
    item.className = [kind === 'absent' && 'absent', kind === 'occluded' && 'occluded', point.byHand && 'hand', suspects.some(({ keypoint }) => keypoint === name) && 'suspect']
      .filter(Boolean).join(' ');
    item.style.setProperty('--shade', confidenceColor(point.confidence));
    const confidence = point.confidence === null ? (point.byHand ? 'by hand' : '') : `${Math.round(100 * point.confidence)} %`;
    item.querySelector('.confidence').textContent = kind === 'visible' ? confidence : kind;
    item.setAttribute('aria-selected', String(k === state.point));
  });
  if (state.point === null) list.removeAttribute('aria-activedescendant');
  else list.setAttribute('aria-activedescendant', `point-${state.point}`);
  const point = currentPoint();
  $('point').disabled = !point || Boolean(state.live);
  $('point').hidden = !face;
  $('point-name').textContent = point ? plainName(names()[state.point]) : 'Choose a point';
  for (const axis of ['x', 'y']) {
    const input = $(`point-${axis}`);
    if (document.activeElement !== input || !point) {
      input.value = point && !isAbsent(point) ? (Math.round(point[axis] * 100) / 100).toString() : '';
    }
  }
  for (const input of $('point').querySelectorAll('[name="state"]')) {
    input.checked = Boolean(point) && input.value === stateOf(point);
  }
}

const UNITS = { ratio: ['', 3], percent: [' %', 1], degrees: ['°', 1] };

export function refreshMeasures() {
  if ($('measures-panel').hidden) return;
  const face = currentFace();
  const able = face && canMeasure(names());
  const { rows, warnings } = able ? measure(face.points, names()) : { rows: [], warnings: [] };
  const words = {
    turned: 'The head is turned: lengths are foreshortened.',
    uncertain: 'The points are uncertain.',
    'missing points': 'Some points are absent.',
  };
  $('warnings').textContent = able
    ? warnings.map((warning) => words[warning]).join(' ')
    : face ? 'The measurements need points that this model does not have.' : '';
  $('measures').replaceChildren(...rows.map(({ name, unit, value, sigma, range }) => {
    const row = document.createElement('tr');
    const head = document.createElement('th');
    head.scope = 'row';
    head.textContent = plainName(name);
    const cell = document.createElement('td');
    const [sign, digits] = UNITS[unit];
    cell.append(value === null ? '–' : value.toFixed(digits).replace('-', '−'));
    if (value !== null) {
      const error = document.createElement('span');
      error.className = 'sigma';
      error.textContent = `${sigma === null ? '' : ` ± ${sigma.toFixed(digits)}`}${sign}`;
      cell.append(error, barOf(value, sigma ?? 0, range));
    }
    row.append(head, cell);
    return row;
  }));
}

function barOf(value, sigma, [low, high]) {
  const bar = document.createElement('span');
  bar.className = 'errorbar';
  const at = (v) => `${(100 * Math.min(1, Math.max(0, (v - low) / (high - low)))).toFixed(1)}%`;
  bar.style.setProperty('--at', at(value));
  bar.style.setProperty('--low', at(value - sigma));
  bar.style.setProperty('--high', at(value + sigma));
  bar.append(document.createElement('i'), document.createElement('b'));
  return bar;
}

/** Scroll the panel, but not the page: on a phone the image would scroll away. */
export function bringIntoPanel(item) {
  const panel = document.querySelector('.panel');
  const [own, frame] = [item.getBoundingClientRect(), panel.getBoundingClientRect()];
  if (own.top < frame.top) panel.scrollTop += own.top - frame.top - 8;
  else if (own.bottom > frame.bottom) panel.scrollTop += own.bottom - frame.bottom + 8;
}

export function describe(point, name) {
  const kind = stateOf(point);
  if (kind === 'absent') return `${plainName(name)}: absent.`;
  const confidence = point.confidence === null ? '' : `, confidence ${Math.round(100 * point.confidence)} %`;
  return `${plainName(name)}: ${point.x.toFixed(1)}, ${point.y.toFixed(1)}${confidence}${kind === 'occluded' ? ', occluded' : ''}.`;
}

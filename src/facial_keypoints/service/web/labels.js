// Pictures, their faces and points, and how they change: everything that can be undone goes through `change`.
// A point is {x, y, confidence, hidden, byHand}; x null = absent (not labelled). `was` remembers where it last stood.

let nextId = 1;

export function newPicture(file, name) {
  const id = nextId;
  nextId += 1;
  return {
    id, file, name, bitmap: null, width: 0, height: 0, status: 'waiting', problem: '',
    faces: [], past: [], future: [], corrected: false,
  };
}

export function newFace({ box, score = null, points }, drawn = false) {
  return {
    box, score, drawn,
    points: points.map(({ x, y, confidence }) => ({ x, y, confidence, hidden: false, byHand: false, was: [x, y] })),
  };
}

export const isAbsent = (point) => point.x === null;

const copyOf = (faces) => structuredClone(faces);

/**
 * Change a picture's faces so that it can be undone.
 * @param key changes with the same key, one right after the other, are undone together (a drag, a held key)
 */
export function change(picture, act, key = null) {
  const now = performance.now();
  const last = picture.past.at(-1);
  const soon = key?.startsWith('drag') || now - last?.time < 1000; // a drag may pause
  const goesOn = key !== null && last?.key === key && soon;
  if (goesOn) last.time = now;
  else picture.past.push({ faces: copyOf(picture.faces), key, time: now, corrected: picture.corrected });
  if (picture.past.length > 500) picture.past.shift();
  picture.future = [];
  act(picture.faces);
  picture.corrected = true;
}

function step(picture, from, to) {
  const state = from.pop();
  if (!state) return false;
  to.push({ faces: picture.faces, key: null, time: 0, corrected: picture.corrected });
  picture.faces = state.faces;
  picture.corrected = state.corrected;
  return true;
}

export const undo = (picture) => step(picture, picture.past, picture.future);
export const redo = (picture) => step(picture, picture.future, picture.past);

/** Put a point somewhere; what a person put there has no estimated confidence. */
export function place(point, x, y) {
  Object.assign(point, { x, y, was: [x, y], confidence: null, byHand: true });
}

/** state: visible, hidden (there, but covered) or absent (not labelled). */
export function setState(point, state, fallback) {
  if (state === 'absent') {
    Object.assign(point, { x: null, y: null, confidence: null, hidden: false, byHand: true });
    return;
  }
  if (isAbsent(point)) {
    const [x, y] = point.was[0] === null ? fallback : point.was;
    place(point, x, y);
  }
  point.hidden = state === 'hidden';
}

export const stateOf = (point) => {
  if (isAbsent(point)) return 'absent';
  return point.hidden ? 'hidden' : 'visible';
};

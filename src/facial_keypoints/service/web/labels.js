// Images, their faces and points, and their changes: everything that can be undone goes through `change`.
// A point is {x, y, confidence, occluded, byHand}; x null = absent (not labelled). `was` is its last place.

export function newImage(file, name) {
  return {
    file, name, bitmap: null, width: 0, height: 0, status: 'waiting', problem: '', lost: 0,
    faces: [], past: [], future: [], corrected: false, checked: false, loaded: false, sure: 1, record: null, refused: null,
  };
}

/** A face as an engine answered it. `style`: the label style of its points, '' if the model has none. */
export function newFace({ box, score = null, points }, style, drawn = false) {
  return {
    box, score, style: style ?? '', drawn,
    points: points.map(({ x, y, confidence }) => ({ x, y, confidence, occluded: false, byHand: false, was: [x, y] })),
  };
}

/**
 * A face of loaded labels: its points were placed by hand unless it says otherwise. Without a box it gets one that is
 * `guessed`, around its points or, without any, the whole image; that is shown, but not written to files.
 */
export function loadedFace({ box, points, ...face }, width, height) {
  const placed = points.filter(({ x }) => x !== null);
  const around = (axis, size) => {
    const values = placed.map((point) => point[axis]);
    const margin = 0.15 * (Math.max(...values) - Math.min(...values)) + 4;
    return placed.length ? [Math.min(...values) - margin, Math.max(...values) + margin] : [0, size];
  };
  const [[x0, x1], [y0, y1]] = [around('x', width), around('y', height)];
  return {
    score: null, style: '', drawn: false, guessed: !box, ...face, box: box ?? [x0, y0, x1, y1],
    points: points.map((point) => ({ confidence: null, byHand: true, ...point, was: [point.x, point.y] })),
  };
}

/** Whether an image is checked, has labels that were loaded or corrected, or had some that can be done again: no answer replaces these. */
export const isTouched = (image) => image.corrected || image.checked || image.loaded || image.future.length > 0;

export const isAbsent = (point) => point.x === null;

/**
 * Change an image's faces so that it can be undone.
 * @param key changes with the same key, one right after the other, are undone together (a drag, a held key)
 */
export function change(image, act, key = null) {
  const now = performance.now();
  const last = image.past.at(-1);
  const soon = key?.startsWith('drag') || now - last?.time < 1000; // a drag may pause
  const goesOn = key !== null && last?.key === key && soon;
  if (goesOn) last.time = now;
  else image.past.push({ faces: structuredClone(image.faces), key, time: now, corrected: image.corrected });
  if (image.past.length > 500) image.past.shift();
  image.future = [];
  act(image.faces);
  image.corrected = true;
}

function step(image, from, to) {
  const state = from.pop();
  if (!state) return false;
  to.push({ faces: image.faces, key: null, time: performance.now(), corrected: image.corrected });
  image.faces = state.faces;
  image.corrected = state.corrected;
  return true;
}

/** Take back a change that was not finished, as if it had not been. */
export function takeBack(image, key) {
  if (image.past.at(-1)?.key === key) step(image, image.past, []);
}

export const undo = (image) => step(image, image.past, image.future);
export const redo = (image) => step(image, image.future, image.past);

/** Move a point; a point placed by hand has no estimated confidence. */
export function place(point, x, y) {
  Object.assign(point, { x, y, was: [x, y], confidence: null, byHand: true });
}

/** state: visible, occluded or absent (not labelled). */
export function setState(point, state, fallback) {
  if (state === 'absent') {
    Object.assign(point, { x: null, y: null, confidence: null, occluded: false, byHand: true });
    return;
  }
  if (isAbsent(point)) {
    const [x, y] = point.was[0] === null ? fallback : point.was;
    place(point, x, y);
  }
  point.occluded = state === 'occluded';
}

export const stateOf = (point) => {
  if (isAbsent(point)) return 'absent';
  return point.occluded ? 'occluded' : 'visible';
};

/** Move or enlarge a face about the middle of its box: the box and, unless `boxOnly`, its points. */
export function moveFace(face, { dx = 0, dy = 0, by = 1, boxOnly = false }) {
  const [x0, y0, x1, y1] = face.box;
  const [mx, my] = [(x0 + x1) / 2, (y0 + y1) / 2];
  const to = (x, y) => [mx + (x - mx) * by + dx, my + (y - my) * by + dy];
  if (by * Math.min(x1 - x0, y1 - y0) < 4) return;
  face.box = [...to(x0, y0), ...to(x1, y1)];
  if (boxOnly) face.guessed = false;
  else {
    for (const point of face.points) {
      // A pixel's centre is half a pixel from the edges that boxes count from.
      if (!isAbsent(point)) place(point, ...to(point.x + 0.5, point.y + 0.5).map((v) => v - 0.5));
    }
  }
}

/** Move sides of a box: `sides` are indices of x0, y0, x1, y1; it keeps 4 pixels. */
export function moveSides(face, sides, dx, dy) {
  const box = [...face.box];
  for (const side of sides) box[side] += side % 2 ? dy : dx;
  if (box[2] - box[0] >= 4 && box[3] - box[1] >= 4) Object.assign(face, { box, guessed: false });
}

/** The points of `from`, moved as its box to `box`; those of `own` that were placed by hand stay. */
export function copyPoints(from, box, own = []) {
  const [wide, high] = [2, 3].map((k) => (box[k] - box[k - 2]) / (from.box[k] - from.box[k - 2]));
  return from.points.map((point, k) => {
    if (own[k]?.byHand && !isAbsent(own[k])) return own[k];
    if (isAbsent(point)) return { ...point, confidence: null, byHand: false };
    const x = box[0] + (point.x + 0.5 - from.box[0]) * wide - 0.5;
    const y = box[1] + (point.y + 0.5 - from.box[1]) * high - 0.5;
    return { x, y, confidence: null, occluded: point.occluded, byHand: false, was: [x, y] };
  });
}

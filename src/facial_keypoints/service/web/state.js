// What the page shows, and short questions about it.

export const state = {
  images: [], current: null, face: 0, point: null, showNames: false, live: null, working: new Set(),
  schema: null, // of the labels: the engine's, or an own one
  model: null, // the engine's schema
  own: null, // 'file' or 'labels': where an own schema comes from
  queue: [], at: 0, // the images of the film, and where in them the current one is or was
  suspects: [], // {image: its name, face, keypoint}, in order
  suspected: new Map(), // of images that are here: their suspects
  suspect: null, // the one that was gone to
  last: null, // the image with faces that was shown before
  waiting: [], // records of images that are not here: importing.js
  ambiguous: new Set(), // names of those that several images could be
  notes: [], // what was read, a sentence each
  paused: null, // {text, button, away}: why no image is predicted now
  skipped: [], // names of files that were not taken
  kept: 0, // frames of the camera
  removed: [], // {image, at, time}, to bring them back
  edits: 0,
  saved: 0, // the edits that a complete download has
};

/** What other modules call after a change; app.js fills it in. */
export const page = {};

export const names = () => state.schema?.keypoint_names ?? [];
export const currentFace = () => state.current?.faces[state.face] ?? null;
export const currentPoint = () => (state.point === null ? null : (currentFace()?.points[state.point] ?? null));

export const inState = (...kinds) => state.images.filter(({ status }) => kinds.includes(status));

/** Whether a face can be added: not while the image is predicted, which would replace it. */
export const canAdd = () => state.images.includes(state.current) && ['done', 'failed'].includes(state.current.status);

/** Whether the model has a point of the schema. */
export const sharesPoints = () => names().some((name) => state.model?.keypoint_names.includes(name));

/** The label styles of the faces of images. */
export const stylesOf = (images) => [...new Set(images.flatMap(({ faces }) => faces.map(({ style }) => style)))].filter(Boolean);

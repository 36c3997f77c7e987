// Labels, schemas, suspected labels and projects that are loaded, and work that is kept in the browser.

import { imagesByName, readByService, readData } from './importing.js';
import { change, isTouched, loadedFace } from './labels.js';
import { $, countOf, problemText, question, someOf, tell } from './messages.js';
import { Keeper, projectOf, recordOf } from './project.js';
import { sureness } from './queue.js';
import { lostNames, pointsFor, schemaFile, schemaOfNames } from './schema.js';
import { names, page, sharesPoints, state } from './state.js';
import { plainName } from './viewer.js';

/**
 * Read files that are no images; what cannot be read is said with its reason.
 * @param images those that come with them
 */
export async function readFiles(files, images) {
  page.stopLive();
  const others = new Map(); // files of a group, which the service reads together
  const attempt = async (act, about = '') => {
    try {
      await act();
    } catch (error) {
      const text = problemText(error) + (error.stops ? about : '');
      state.notes.push(text);
      tell(text, true);
    }
  };
  for (const file of files) {
    await attempt(async () => {
      const data = await readData(file);
      if (data.kind === 'other') others.set(data.group, [...others.get(data.group) ?? [], file]);
      else await takeData(data, file.name);
    });
  }
  for (const group of others.values()) {
    await attempt(async () => {
      tell('The service reads the labels …');
      const sizes = await sizesOf([...state.images, ...images]);
      const schema = state.own === 'file' ? schemaFile(state.schema) : null;
      const data = await readByService(group, (some, to) => page.convert(some, to, sizes, schema));
      await takeData(data, group.length > 1 ? countOf(group, 'file') : group[0].name);
    }, ' csv and COCO are read without it.');
  }
  page.refresh();
  page.work();
}

/** The [width, height] of images by their names; one that is not decoded yet tells only its size. */
async function sizesOf(images) {
  const sizes = {};
  for (const { name, file, width, height } of images) {
    if (width) sizes[name] = [width, height];
    else {
      const seen = new Image();
      seen.src = URL.createObjectURL(file);
      await new Promise((done) => { seen.onload = seen.onerror = done; });
      URL.revokeObjectURL(seen.src);
      if (seen.naturalWidth) sizes[name] = [seen.naturalWidth, seen.naturalHeight];
    }
  }
  return sizes;
}

async function takeData({ kind, schema, names: points, edges, records, suspects, leftOut = new Map(), lines: read }, file) {
  const lines = [];
  if (kind === 'suspects') {
    state.suspects = suspects;
    const missing = findSuspects();
    $('order').querySelector('[value="suspects"]').disabled = false;
    $('order').value = 'suspects';
    lines.push(`${file}: ${countOf(suspects, 'suspected label')} in ${state.suspected.size + missing.length} images`);
    if (missing.length) lines.push(`${file}: images that are not here: ${missing.join(', ')}`);
    page.arrange();
    if (state.queue.length) page.show(state.queue[0]);
  }
  if (kind === 'schema' || kind === 'project') {
    if (!(await useSchema(schema, 'file'))) {
      state.notes.push(`${file}: not taken, the schema stays`);
      return;
    }
    lines.push(`${file}: ${countOf(names(), 'keypoint')}`);
  }
  if (kind === 'labels') {
    const unknown = points.filter((name) => !names().includes(name));
    if (unknown.length && state.own === 'file') {
      const lost = records.flatMap(({ faces }) => faces).flatMap((face) => unknown.filter((name) => face.points[points.indexOf(name)].x !== null));
      leftOut.set(`labels of keypoints that the schema does not have (${[...new Set(lost)].join(', ')})`, lost.length);
    } else if (unknown.length) {
      const all = state.own ? [...names(), ...unknown] : points;
      const told = schema && all.length === schema.keypoint_names.length && all.every((name) => schema.keypoint_names.includes(name));
      if (!(await useSchema(told ? schema : schemaOfNames(all, state.own ? state.schema.edges : edges), 'labels'))) {
        state.notes.push(`${file}: not taken, the schema stays`);
        return;
      }
    }
  }
  if (records) {
    const faces = records.flatMap((record) => record.faces);
    if (kind === 'labels') lines.push(...read ?? [`${file}: ${countOf(records, 'image')}, ${countOf(faces, 'face')}, ${countOf(points, 'keypoint')}`]);
    await addRecords(records.map((record) => ({ ...record, names: points ?? schema.keypoint_names })), file);
  }
  for (const [what, n] of leftOut) if (n) lines.push(`${file}: left out: ${n} ${what}`);
  state.notes.push(...lines);
  tell(lines.join('. '));
}

/** Label with other keypoints. Points that the new schema does not have are removed, if the user says so. */
async function useSchema(schema, from) {
  const every = [...state.images, ...state.removed.map(({ image }) => image)];
  const lost = state.schema ? lostNames(every.filter(isTouched).flatMap(({ faces }) => faces), names(), schema.keypoint_names) : [];
  if (lost.length && !(await question(
    'Use these keypoints?',
    [`Images that were corrected or loaded have labels of keypoints that the new schema does not have: ${lost.map(plainName).join(', ')}. They would be removed, and this cannot be undone.`],
    'Remove them', 'Keep the schema',
  ))) return false;
  const before = names();
  for (const image of every) {
    for (const face of image.faces) face.points = pointsFor(face.points, before, schema.keypoint_names);
    Object.assign(image, { past: [], future: [] });
  }
  const known = schema.keypoint_names.join('\n') === state.model?.keypoint_names.join('\n');
  Object.assign(state, { schema: known ? state.model : schema, own: known ? null : from, point: null });
  if (state.model && !sharesPoints() && $('find').checked) {
    $('find').checked = false;
    state.notes.push('The model has none of these keypoints: it is not asked. Options switches it on, to find the boxes of faces.');
  }
  page.again();
  return true;
}

/** Records for images that are here or will come. Nothing that was corrected is replaced unasked. */
async function addRecords(records, file) {
  const here = imagesByName(records.map(({ name }) => name), state.images);
  const taken = records.filter(({ name }, n) =>
    (here[n] && isTouched(here[n])) || state.waiting.some((other) => other.name === name));
  const replace = !taken.length || await question(
    'Replace labels?',
    [`${countOf(taken, 'image')} of ${file} ${taken.length === 1 ? 'has' : 'have'} corrections or loaded labels already: ${someOf(taken.map(({ name }) => name))}.`],
    'Replace them', 'Keep mine',
  );
  if (!replace) state.notes.push(`${file}: ${countOf(taken, 'image')} kept as before: ${someOf(taken.map(({ name }) => name))}`);
  const wanted = replace ? records : records.filter((record) => !taken.includes(record));
  const newer = new Set(wanted.map(({ name }) => name));
  state.waiting = [...state.waiting.filter(({ name }) => !newer.has(name)), ...wanted];
  giveLabels();
}

/** Give records to their images; they are applied when the image is decoded. */
export function giveLabels() {
  const found = imagesByName(state.waiting.map(({ name }) => name), state.images);
  state.waiting.forEach((record, n) => {
    if (!found[n]) return;
    found[n].record = record;
    page.waitAgain([found[n]]);
  });
  state.ambiguous = new Set(state.waiting.filter((_, n) => found[n] === undefined).map(({ name }) => name));
  state.waiting = state.waiting.filter((_, n) => !found[n]);
  if (state.waiting.length || found.length) keepSoon();
  page.refreshStrip();
}

/** The image's loaded labels become its faces; without any it has none. Labels of an image of another shape are not taken. */
export function takeRecord(image) {
  const { record } = image;
  const [width, height] = record?.size ?? [image.width, image.height];
  // The same shape, but for rounding of the smaller size; data/formats/pixels.py has the same limit.
  if (Math.abs(width * image.height - height * image.width) > 0.01 * width * image.height) {
    state.notes.push(`${image.name}: its labels are of an image of ${width} × ${height} px, which has another shape, and are not taken: is it the image that was labelled?`);
    Object.assign(image, { record: null, refused: record, status: 'waiting' });
    return;
  }
  const [wide, high] = [image.width / width, image.height / height];
  const faces = (record?.faces ?? []).map((face) =>
    loadedFace(scaled({ ...face, points: pointsFor(face.points, record.names, names()) }, wide, high), image.width, image.height));
  if (isTouched(image)) change(image, (old) => old.splice(0, old.length, ...faces));
  else Object.assign(image, { faces, past: [], future: [] });
  Object.assign(image, { record: null, status: 'done', problem: '', lost: 0, warnings: [] });
  if (record) Object.assign(image, { corrected: record.corrected, checked: record.checked, sure: record.sure ?? sureness(faces), loaded: true });
  if (wide !== 1 || high !== 1) image.warnings = [`labels of ${width} × ${height} px, scaled`];
  if (record) image.refused = null;
  if (image === state.current) {
    page.viewer.letGo();
    toSuspect();
  }
}

/** A face in pixels of an image that is `wide` and `high` times as large. */
function scaled(face, wide, high) {
  if (wide === 1 && high === 1) return face;
  // A pixel's centre is half a pixel from the edges that boxes count from.
  const to = (v, by) => (v === null ? null : (v + 0.5) * by - 0.5);
  return {
    ...face,
    box: face.box?.map((v, k) => v * (k % 2 ? high : wide)) ?? null,
    points: face.points.map((point) => ({ ...point, x: to(point.x, wide), y: to(point.y, high) })),
  };
}

/** Choose the suspected label that is gone to or, when these are gone through, the first of the current image. */
export function toSuspect() {
  const here = state.suspected.get(state.current) ?? [];
  if (!here.includes(state.suspect)) state.suspect = $('order').value === 'suspects' ? here[0] ?? null : null;
  const point = names().indexOf(state.suspect?.keypoint);
  if (point >= 0 && state.current.faces[state.suspect.face]) page.select(state.suspect.face, point, true);
}

/** Find the images of the suspected labels. */
export function findSuspects() {
  const wanted = [...new Set(state.suspects.map(({ image }) => image))];
  const found = imagesByName(wanted, state.images);
  state.suspected = new Map(wanted.flatMap((name, n) =>
    (found[n] ? [[found[n], state.suspects.filter(({ image }) => image === name)]] : [])));
  return wanted.filter((_, n) => !found[n]);
}

// --- projects ---------------------------------------------------------------------------------------------------

const keeper = new Keeper();
let keeping;

/** The project, of the images that `may`; labels that wait for their image are always part of it. */
export function projectNow(may) {
  const plain = ({ names: points, ...record }) => ({
    ...record, faces: record.faces.map((face) => ({ ...face, points: pointsFor(face.points, points, names()) })),
  });
  const kept = ({ refused, ...image }) => refused && !isTouched(image);
  const here = state.images.filter(({ record, status }) => !record && status === 'done').filter((image) => may(image) && !kept(image)).map(recordOf);
  const refused = state.images.filter(kept).map((image) => image.refused);
  const coming = [...state.images.map(({ record }) => record).filter(Boolean), ...refused, ...state.waiting];
  return projectOf(state.schema, [...here, ...coming.map(plain)]);
}

async function keepNow() {
  clearTimeout(keeping);
  keeping = null;
  try {
    await keeper.keep(projectNow(isTouched));
    document.documentElement.dataset.kept = state.edits;
  } catch (error) {
    const text = `This browser does not keep your work (${error?.message ?? error}): save the project.`;
    if (!state.notes.includes(text)) {
      state.notes.push(text);
      tell(text, true);
    }
  }
}

/** Keep the work in the browser, soon. */
export function keepSoon() {
  if (keeping || !state.schema) return;
  keeping = setTimeout(keepNow, 700);
}

document.addEventListener('visibilitychange', () => {
  if (document.hidden && keeping) keepNow();
});

/** Offer the work of pages that were closed. */
export async function offerKept() {
  for (const { key, time, content } of await keeper.found().catch(() => [])) {
    const { records } = content;
    const answer = await question(
      'Go on with your work?',
      [
        `This browser has kept labels of ${countOf(records, 'image')} from ${new Date(time).toLocaleString()}: ${someOf(records.map(({ name }) => name))}.`,
        'Photos are not kept: add them again, and they get their labels.',
      ],
      'Restore', 'Not now', 'Delete them',
    );
    if (!answer) return;
    if (answer === true) {
      await takeData({ ...content, kind: 'project' }, 'Restored');
      await keepNow(); // before the other copy is deleted
      page.refresh();
    }
    await keeper.forget(key);
    if (answer === 'other') tell('The labels that this browser had kept are deleted.');
  }
}

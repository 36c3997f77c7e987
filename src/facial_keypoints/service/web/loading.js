// Labels, schemas, suspected labels and projects that are loaded, and work that is kept in the browser.

import { imagesByName, readData } from './importing.js';
import { change, isTouched, loadedFace } from './labels.js';
import { $, countOf, problemText, question, someOf, tell } from './messages.js';
import { Keeper, projectOf, recordOf } from './project.js';
import { sureness } from './queue.js';
import { lostNames, pointsFor, schemaOfNames } from './schema.js';
import { names, page, sharesPoints, state } from './state.js';
import { plainName } from './viewer.js';

/** Read files that are no images; what cannot be read is said with its reason. */
export async function readFiles(files) {
  page.stopLive();
  for (const file of files) {
    try {
      await takeData(await readData(file), file.name);
    } catch (error) {
      state.notes.push(problemText(error));
      tell(problemText(error), true);
    }
  }
  page.refresh();
  page.work();
}

async function takeData({ kind, schema, names: points, edges, records, suspects, leftOut = new Map() }, file) {
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
      if (!(await useSchema(schemaOfNames(all, state.own ? state.schema.edges : edges), 'labels'))) {
        state.notes.push(`${file}: not taken, the schema stays`);
        return;
      }
    }
  }
  if (records) {
    const faces = records.flatMap((record) => record.faces);
    if (kind === 'labels') lines.push(`${file}: ${countOf(records, 'image')}, ${countOf(faces, 'face')}, ${countOf(points, 'keypoint')}`);
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

/** The image's loaded labels become its faces; without any it has none. */
export function takeRecord(image) {
  const { record } = image;
  const faces = (record?.faces ?? []).map((face) =>
    loadedFace({ ...face, points: pointsFor(face.points, record.names, names()) }, image.width, image.height));
  if (isTouched(image)) change(image, (old) => old.splice(0, old.length, ...faces));
  else Object.assign(image, { faces, past: [], future: [] });
  Object.assign(image, { record: null, status: 'done', problem: '', lost: 0, warnings: [] });
  if (record) Object.assign(image, { corrected: record.corrected, checked: record.checked, sure: record.sure ?? sureness(faces), loaded: true });
  if (record?.size && (record.size[0] !== image.width || record.size[1] !== image.height)) {
    image.warnings = [`the labels are of an image of ${record.size.join(' × ')} px: check them`];
  }
  if (image === state.current) {
    page.viewer.letGo();
    toSuspect();
  }
}

/** Choose the suspected label of the current image, when these are gone through. */
export function toSuspect() {
  const [suspect] = $('order').value === 'suspects' ? state.suspected.get(state.current) ?? [] : [];
  const point = names().indexOf(suspect?.keypoint);
  if (point >= 0 && state.current.faces[suspect.face]) page.select(suspect.face, point, true);
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
  const here = state.images.filter(({ record, status }) => !record && status === 'done').filter(may).map(recordOf);
  const coming = [...state.images.map(({ record }) => record).filter(Boolean), ...state.waiting];
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
  }
}

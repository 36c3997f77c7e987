// The page: shows images with their faces, corrects points and downloads them. Its modules: engines.js (service or
// browser), labels.js (changes and undo), viewer.js (the canvas), film.js and queue.js (which images, in which order),
// schema.js, importing.js, project.js, measurement.js, exporting.js, live.js (the camera).

import { Browser, Problem, Service } from './engines.js';
import { Film } from './film.js';
import { droppedFiles, imagesByName, isData, readData } from './importing.js';
import {
  change, copyPoints, isAbsent, isTouched, loadedFace, moveFace, moveSides, newFace, newImage, place, redo, setState, stateOf, takeBack, undo,
} from './labels.js';
import { camerasHere, startCamera } from './live.js';
import { NOTICE, canMeasure, measure } from './measurement.js';
import { imageBlob, save, toCoco, toCsv, toJson, toKaggle, toLabels, toMeasurementCsv, toPng } from './exporting.js';
import { Keeper, projectOf, recordOf } from './project.js';
import { queueOf, sureness } from './queue.js';
import { lostNames, pointsFor, schemaFile, schemaOfNames } from './schema.js';
import { Smoother } from './smoothing.js';
import { Viewer, confidenceColor, plainName } from './viewer.js';

const $ = (id) => document.getElementById(id);
const KEPT_BITMAPS = 4; // decoded photos held at once; a 24-megapixel one takes 100 MB

const state = {
  images: [], current: null, face: 0, point: null, showNames: false, live: null, working: new Set(),
  schema: null, // of the labels: the engine's, or an own one
  model: null, // the engine's schema
  own: null, // 'file' or 'labels': where an own schema comes from
  queue: [], at: 0, // the images of the film, and where in them the current one is or was
  suspects: [], // {image: its name, face, keypoint}, in order
  suspected: new Map(), // of images that are here: their suspects
  last: null, // the image with faces that was shown before
  waiting: [], // records of images that are not here: importing.js
  notes: [], // what was read, a sentence each
  paused: null, // {text, button, away}: why no image is predicted now
  skipped: [], // names of files that were not taken
  kept: 0, // frames of the camera
  removed: [], // {image, at, time}, to bring them back
};
const service = new Service(askToken);
const engines = { service, browser: new Browser(service) };
let engine = null; // null while one starts
let settled = null; // the engine that answered last
let wanted = null; // the kind that is switched on
let switching = new AbortController(); // ends what was asked of an engine when another is chosen
let edits = 0;
let saved = 0; // the edits that a complete download has

// --- messages ---------------------------------------------------------------------------------------------------

let noteTimer;

/** Show a sentence for a moment, and say it to screen readers. */
function tell(text, bad = false) {
  $('note').textContent = text;
  $('note').classList.toggle('bad', bad);
  $('note').hidden = !text;
  (bad ? $('alert') : $('live')).textContent = text;
  clearTimeout(noteTimer);
  if (text) noteTimer = setTimeout(() => { $('note').hidden = true; }, bad ? 8000 : 2500);
}

/** Say a sentence to screen readers only: it describes what is visible. */
const say = (text) => { $('live').textContent = text; };

const problemText = (error) =>
  error instanceof Problem ? error.message : `Something went wrong in the page: ${error.message}`;

/** Show a dialog; whether it was closed with its main button. */
function agreed(dialog) {
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener('close', () => done(dialog.returnValue === 'ok'), { once: true });
  });
}

/** Ask with the one dialog for questions; whether its main button was chosen, or 'other'. */
async function question(title, lines, yes, no, other = '') {
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
function askToken(wrong) {
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

// --- images ---------------------------------------------------------------------------------------------------

const names = () => state.schema?.keypoint_names ?? [];
const currentFace = () => state.current?.faces[state.face] ?? null;
const currentPoint = () => (state.point === null ? null : (currentFace()?.points[state.point] ?? null));

async function bitmapOf(image) {
  if (!image.bitmap) {
    try {
      image.bitmap = await createImageBitmap(image.file, { imageOrientation: 'from-image' });
    } catch {
      throw new Problem(`This browser cannot show ${image.name}.`);
    }
    image.width = image.bitmap.width;
    image.height = image.bitmap.height;
    film.draw(image);
  }
  image.used = performance.now();
  const held = state.images.filter((each) => each.bitmap && each !== image && each !== state.current);
  held.sort((a, b) => b.used - a.used);
  // Not closed, since it may still be drawn; it is garbage-collected without a reference.
  for (const each of held.slice(KEPT_BITMAPS)) each.bitmap = null;
  return image.bitmap;
}

/** Add images, and read labels, schemas and projects; what is neither is skipped. */
async function addFiles(files) {
  const isImage = (file) => file.type.startsWith('image/') || /\.(jpe?g|png|webp|bmp|gif|avif)$/i.test(file.name);
  const skipped = [...files].filter((file) => !isImage(file) && !isData(file)).map((file) => file.webkitRelativePath || file.name);
  const data = [...files].filter((file) => !isImage(file) && isData(file));
  state.skipped.push(...skipped);
  refreshStrip();
  const images = [...files]
    .filter(isImage)
    .sort((a, b) => (a.webkitRelativePath || '').localeCompare(b.webkitRelativePath || '', undefined, { numeric: true }))
    .map((file) => newImage(file, file.webkitRelativePath || file.name || 'image.png'));
  if (data.length) await readFiles(data); // first, so that no image is predicted that has labels
  if (!images.length) {
    if (!data.length) tell(files.length ? 'There is no image among these files.' : 'No files were chosen.', true);
    return;
  }
  stopLive();
  state.images.push(...images);
  delete $('app').dataset.empty;
  for (const image of images) film.add(image, state.current);
  giveLabels();
  findSuspects();
  show(images[0]);
  say(`${countOf(images, 'image')} added.${skipped.length ? ` ${countOf(skipped, 'file')} skipped: no image.` : ''}`);
  work();
}

async function show(image) {
  if (state.current?.faces.length && state.current !== image) state.last = state.current;
  setMoving(null);
  state.current = image;
  state.face = 0;
  state.point = null;
  viewer.update({ faces: [], face: 0, point: null });
  try {
    const bitmap = await bitmapOf(image);
    if (state.current !== image) return;
    viewer.show(bitmap);
  } catch (error) {
    if (image.status !== 'done') Object.assign(image, { status: 'failed', problem: problemText(error) });
    viewer.show(null);
    tell(problemText(error), true);
  }
  refresh();
  toSuspect();
  film.reveal(image);
}

/** The image that is `by` further in the film. An image that the filter hides now had the place of the next one. */
function further(by) {
  const at = state.queue.indexOf(state.current);
  return state.queue[at >= 0 ? at + by : by > 0 ? state.at : state.at - 1];
}

function go(by) {
  if (!state.images.length || state.live) return;
  const image = further(by);
  if (!image) {
    say(by < 0 ? 'This is the first image.' : 'This is the last image.');
    return;
  }
  show(image);
  say(`Image ${state.at + 1} of ${state.queue.length}: ${image.name}. ${countOf(image.faces, 'face')}.`);
}

/** Mark the current image as checked and go to the next one, or take the mark back. */
function check() {
  const image = state.current;
  if (!state.images.includes(image) || state.live) return;
  image.checked = !image.checked;
  edits += 1;
  const next = image.checked && further(1);
  if (next) show(next);
  refreshImage(image);
  keepSoon();
  tell(`${image.name} is ${image.checked ? '' : 'not '}checked.${image.checked && !next ? ' It was the last one.' : ''}`);
}

/** The images of the film, again after a change. */
function arrange() {
  const queue = queueOf(state.images, {
    filter: $('filter').value, order: $('order').value, suspected: [...state.suspected.keys()],
  });
  if (queue.length !== state.queue.length || queue.some((image, n) => image !== state.queue[n])) film.arrange(queue);
  state.queue = queue;
  const at = queue.indexOf(state.current);
  state.at = at >= 0 ? at : Math.min(state.at, queue.length);
}

/** The next choice of a select, as if it was chosen. */
function nextChoice(select) {
  const able = [...select.options].filter(({ disabled }) => !disabled);
  const next = able[(able.indexOf(select.selectedOptions[0]) + 1) % able.length];
  select.value = next.value;
  select.dispatchEvent(new Event('change'));
  tell(`${select.ariaLabel}: ${next.text}.`);
}

/** Whether a face can be added: not while the image is predicted, which would replace it. */
const canAdd = () => state.images.includes(state.current) && ['done', 'failed'].includes(state.current.status);

const countOf = ({ length }, word) => `${length} ${word}${length === 1 ? '' : 's'}`;

function removeImage() {
  const image = state.current;
  if (!image || state.live) return;
  const at = state.images.indexOf(image);
  state.images.splice(at, 1);
  state.removed.push({ image, at, time: performance.now() });
  keepSoon();
  film.remove(image);
  showOrNone(state.images[Math.min(at, state.images.length - 1)]);
  tell(`${image.name} was removed. Undo brings it back.`);
}

function bringBack() {
  const { image, at } = state.removed.pop();
  state.images.splice(at, 0, image);
  delete $('app').dataset.empty;
  film.add(image, state.current);
  film.arrange([]); // it has its place again with `refresh`
  state.queue = [];
  show(image);
  tell(`${image.name} is back.`);
  work();
}

function showOrNone(image) {
  if (image) {
    show(image);
    return;
  }
  state.current = null;
  viewer.show(null);
  $('app').dataset.empty = '';
  refresh();
}

/** Ask the engine; null if there is none yet, or another was chosen before it answered. */
async function ask(image) {
  const { signal } = switching;
  if (!engine) return null;
  try {
    const answer = await engine.predict({ ...image, signal });
    if (signal.aborted) return null;
    const faces = answer.faces.map((face) => ({ ...face, points: pointsFor(face.points, state.model.keypoint_names, names()) }));
    return { ...answer, faces };
  } catch (error) {
    if (signal.aborted) return null;
    throw error;
  }
}

/** Whether an image that waits needs no engine. */
const needsNoModel = ({ record }) => record || !$('find').checked;

/** Go on with the images that wait. None goes anywhere while an engine starts; labels do not wait for a slow engine. */
function work() {
  eachWaiting('labels', needsNoModel);
  eachWaiting('model', (image) => engine && !state.paused && !needsNoModel(image));
}

/** Predict images one after the other, first the one that is shown. */
async function eachWaiting(loop, may) {
  if (state.working.has(loop)) return;
  state.working.add(loop);
  for (;;) {
    const waiting = inState('waiting').filter(may);
    const image = waiting.includes(state.current) ? state.current : waiting[0];
    if (!image) break;
    await predict(image);
  }
  state.working.delete(loop);
}

async function predict(image) {
  image.status = 'busy'; // whoever changes it makes the answer stale
  refreshImage(image);
  try {
    const bitmap = await bitmapOf(image);
    if (image.status !== 'busy') return;
    if (needsNoModel(image)) {
      takeRecord(image);
      refreshImage(image);
      return;
    }
    const asked = choices();
    const found = await ask({ file: image.file, name: image.name, bitmap, ...asked });
    if (image.status !== 'busy') return;
    if (found.width !== bitmap.width || found.height !== bitmap.height) {
      throw new Problem(`The service decodes ${image.name} to another size than this browser.`);
    }
    image.faces = found.faces.map((face) => newFace(face, asked.style));
    image.sure = sureness(image.faces);
    Object.assign(image, { past: [], future: [], status: 'done', problem: '', lost: 0, warnings: found.warnings ?? [] });
    if (image === state.current) {
      viewer.letGo();
      state.face = 0;
      state.point = null;
      say(`${image.name}: ${countOf(image.faces, 'face')} found.`);
      const least = found.smallest === null ? '' : ` of ${Math.round(found.smallest)} pixels or more`;
      if (!image.faces.length) tell(`No face${least} was found. Draw a box around one: “Add face”.`);
    }
  } catch (error) {
    if (image.status !== 'busy') return;
    image.lost += error.stops === 'away' ? 1 : 0;
    if (error.stops && image.lost < 2) {
      image.status = 'waiting';
      stopFor(error);
    } else { // also an image with which the service goes away each time
      image.status = 'failed';
      image.problem = problemText(error);
      if (image === state.current) tell(image.problem, true);
    }
  }
  refreshImage(image);
}

const choices = () => ({
  style: $('style').value || null, crops: $('crops').checked, minScore: Number($('min-score').value) || null,
  effort: $('effort').value || null,
});

/** Images with these states wait again. */
function waitAgain(images) {
  for (const image of images) {
    image.status = 'waiting';
    film.refresh(image, state.current);
  }
  refresh();
}

/** Predict every image again that has no corrections. */
function again() {
  waitAgain(state.images.filter((image) => !isTouched(image)));
  const other = state.images.filter((image) => image.faces.some(({ style }) => style !== ($('style').value || '')) && isTouched(image));
  if (other.length) tell(`${countOf(other, 'corrected image')} keep${other.length === 1 ? 's' : ''} the label style of before.`);
  work();
}

/** Try failed images again. */
function retry(images) {
  for (const image of images) image.lost = 0;
  waitAgain(images);
  resume();
}

// --- pauses and progress ----------------------------------------------------------------------------------------

const inState = (...kinds) => state.images.filter(({ status }) => kinds.includes(status));

/** No image is predicted until `resume`. */
function pause(paused) {
  state.paused = paused;
  waitAgain(inState('busy'));
  if (paused.away) setTimeout(lookAgain, 2000);
}

/** Pause because of a problem that every image would meet. */
function stopFor(error) {
  const button = error.stops === 'token' ? 'Enter the token' : 'Try again';
  const away = error.stops === 'away';
  pause({ text: problemText(error) + (away ? ' The page goes on when it is back.' : ''), button, away, bad: true });
  $('alert').textContent = problemText(error);
}

async function lookAgain() {
  if (!state.paused?.away) return;
  await resume();
  setTimeout(lookAgain, 2000);
}

async function resume() {
  if (state.paused?.away && !(await service.alive())) return;
  state.paused = null;
  refreshStrip();
  if (engine) work();
  else if (wanted) useEngine(wanted);
}

/** How far all images are, why they do not go on, and what was passed over. */
function refreshStrip() {
  arrange();
  const [all, done, failed, open] = [state.images, inState('done'), inState('failed'), inState('waiting', 'busy')];
  const { paused, skipped, notes, waiting } = state;
  const checked = all.filter((image) => image.checked);
  $('queue').hidden = all.length < 2;
  $('strip').hidden = all.length < 2 && !paused && !failed.length && !skipped.length && !notes.length;
  $('strip').classList.toggle('bad', Boolean(paused?.bad));
  $('progress').hidden = !all.length;
  [$('progress').max, $('progress').value] = [Math.max(1, all.length), done.length + failed.length];
  $('strip-text').textContent = [
    paused?.text,
    all.length && `${done.length} of ${countOf(all, 'image')} done${failed.length ? `, ${failed.length} failed` : ''}${checked.length ? `, ${checked.length} checked` : ''}`,
  ].filter(Boolean).join(' ');
  $('resume').hidden = !paused;
  $('resume').textContent = paused?.button ?? '';
  $('cancel').hidden = Boolean(paused) || open.length === 0;
  $('retry-all').hidden = Boolean(paused) || !failed.length;
  $('retry').hidden = state.current?.status !== 'failed';
  refreshList('skipped', `${countOf(skipped, 'file')} skipped`, skipped);
  refreshList('notes', 'What was read', notes);
  refreshList('not-here', `${countOf(waiting, 'labelled image')} not here`, waiting.map(({ name }) => name));
}

/** A list that opens; hidden while it is empty. */
function refreshList(id, title, lines) {
  $(id).hidden = !lines.length;
  $(id).querySelector('summary').textContent = title;
  const list = $(id).querySelector('ul');
  const shown = lines.slice(0, 500);
  if (lines.length > shown.length) shown.push(`and ${lines.length - shown.length} more`);
  if (list.children.length === shown.length && list.lastChild?.textContent === shown.at(-1)) return;
  list.replaceChildren(...shown.map((text) => Object.assign(document.createElement('li'), { textContent: text })));
}

// --- labels, schemas and projects that are loaded -----------------------------------------------------------------

/** Whether the model has a point of the schema. */
const sharesPoints = () => names().some((name) => state.model?.keypoint_names.includes(name));

/** Read files that are no images; what cannot be read is said with its reason. */
async function readFiles(files) {
  stopLive();
  for (const file of files) {
    try {
      await takeData(await readData(file), file.name);
    } catch (error) {
      state.notes.push(problemText(error));
      tell(problemText(error), true);
    }
  }
  refresh();
  work();
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
    arrange();
    if (state.queue.length) show(state.queue[0]);
  }
  if (kind === 'schema' || kind === 'project') {
    if (!(await useSchema(schema, 'file'))) return;
    lines.push(`${file}: ${countOf(names(), 'keypoint')}`);
  }
  if (kind === 'labels') {
    const unknown = points.filter((name) => !names().includes(name));
    if (unknown.length && state.own === 'file') {
      const lost = records.flatMap(({ faces }) => faces).flatMap((face) => unknown.filter((name) => face.points[points.indexOf(name)].x !== null));
      leftOut.set(`labels of keypoints that the schema does not have (${[...new Set(lost)].join(', ')})`, lost.length);
    } else if (unknown.length) {
      const all = state.own ? [...names(), ...unknown] : points;
      if (!(await useSchema(schemaOfNames(all, state.own ? state.schema.edges : edges), 'labels'))) return;
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
  again();
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

const someOf = (texts) => (texts.length > 5 ? `${texts.slice(0, 5).join(', ')} and ${texts.length - 5} more` : texts.join(', '));

/** Give records to their images; they are applied when the image is decoded. */
function giveLabels() {
  const found = imagesByName(state.waiting.map(({ name }) => name), state.images);
  state.waiting.forEach((record, n) => {
    if (!found[n]) return;
    found[n].record = record;
    waitAgain([found[n]]);
  });
  state.waiting = state.waiting.filter((_, n) => !found[n]);
  if (state.waiting.length || found.length) keepSoon();
  refreshStrip();
}

/** The image's loaded labels become its faces; without any it has none. */
function takeRecord(image) {
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
    viewer.letGo();
    toSuspect();
  }
}

/** Choose the suspected label of the current image, when these are gone through. */
function toSuspect() {
  const [suspect] = $('order').value === 'suspects' ? state.suspected.get(state.current) ?? [] : [];
  const point = names().indexOf(suspect?.keypoint);
  if (point >= 0 && state.current.faces[suspect.face]) select(suspect.face, point, true);
}

/** Find the images of the suspected labels. */
function findSuspects() {
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
function projectNow(may) {
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
    document.documentElement.dataset.kept = edits;
  } catch (error) {
    const text = `This browser does not keep your work (${error?.message ?? error}): save the project.`;
    if (!state.notes.includes(text)) {
      state.notes.push(text);
      tell(text, true);
    }
  }
}

/** Keep the work in the browser, soon. */
function keepSoon() {
  if (keeping || !state.schema) return;
  keeping = setTimeout(keepNow, 700);
}

document.addEventListener('visibilitychange', () => {
  if (document.hidden && keeping) keepNow();
});

/** Offer the work of pages that were closed. */
async function offerKept() {
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
      refresh();
    }
    await keeper.forget(key);
  }
}

// --- the film ---------------------------------------------------------------------------------------------------

const film = new Film($('film'), (image) => {
  stopLive();
  show(image);
});

/** After a change of an image's state. */
function refreshImage(image) {
  film.refresh(image, state.current);
  if (image === state.current) refresh();
  else refreshStrip();
}

// --- showing ---------------------------------------------------------------------------------------------------

function refresh() {
  const image = state.current;
  const faces = image?.faces ?? [];
  state.face = Math.min(state.face, Math.max(0, faces.length - 1));
  viewer.update({
    faces: image?.mirrored ? mirrorFaces(faces, image.width) : faces, names: names(), edges: state.schema?.edges ?? [], face: state.face, point: state.point,
    showNames: state.showNames,
  });
  $('image-name').textContent = image?.name ?? 'No image';
  arrange();
  const at = state.queue.indexOf(image);
  const kept = state.images.includes(image);
  const words = { waiting: 'waiting', busy: 'finding faces …', failed: image?.problem };
  $('image-about').textContent = !image
    ? ''
    : [
      at >= 0 ? `${at + 1} of ${state.queue.length}` : '',
      image.width ? `${image.width} × ${image.height} px` : '',
      words[image.status] ?? countOf(faces, 'face'),
      stylesOf([image]).join(', '),
      image.about ?? '',
      ...(image.warnings ?? []),
      image.corrected ? 'corrected' : '',
      image.checked ? 'checked' : '',
      state.suspected.has(image) ? `suspected: ${state.suspected.get(image).map(({ keypoint }) => plainName(keypoint)).join(', ')}` : '',
    ].filter(Boolean).join(' · ');
  film.forget();
  if (image && kept) film.refresh(image, state.current);
  const able = { undo: image?.past.length || state.removed.length, redo: image?.future.length };
  Object.assign(able, { previous: kept && further(-1), next: kept && further(1), check: kept });
  able['zoom-face'] = faces.length;
  for (const act of ['move-face', 'move-box']) able[act] = faces.length && kept;
  able.copy = canAdd() && state.images.includes(state.last) && state.last !== image;
  able['delete-face'] = faces.length && kept;
  able['remove-image'] = kept;
  able['add-face'] = canAdd();
  for (const [act, yes] of Object.entries(able)) {
    for (const button of document.querySelectorAll(`[data-act="${act}"]`)) button.disabled = !yes;
  }
  pressed('check', Boolean(image?.checked));
  refreshFaces(faces);
  refreshPoints();
  refreshMeasures();
  refreshStrip();
}

/** The label styles of the faces of images. */
const stylesOf = (images) => [...new Set(images.flatMap(({ faces }) => faces.map(({ style }) => style)))].filter(Boolean);

function refreshFaces(faces) {
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
    button.addEventListener('click', () => select(n, null));
    return button;
  }));
  if (had) box.querySelector('[aria-checked="true"]')?.focus();
}

function refreshPoints() {
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
        select(state.face, k);
        $('canvas').focus({ preventScroll: true }); // the arrow keys move it now
      });
      return item;
    }));
  }
  list.hidden = !face;
  names().forEach((name, k) => {
    const item = list.children[k];
    const point = face?.points[k];
    if (!point) return;
    const kind = stateOf(point);
    item.className = [kind === 'absent' && 'absent', kind === 'occluded' && 'occluded', point.byHand && 'hand']
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

function refreshMeasures() {
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

// --- correcting -------------------------------------------------------------------------------------------------

function select(face, point, reveal = false) {
  if (!state.current?.faces[face]) return;
  const otherFace = face !== state.face;
  state.face = face;
  state.point = point;
  refresh();
  const chosen = currentPoint();
  if (chosen) {
    const seen = viewer.scene.faces[face].points[point];
    if (reveal && !isAbsent(seen)) viewer.reveal(seen.x, seen.y);
    bringIntoPanel($(`point-${point}`));
    say(`${otherFace ? `Face ${face + 1}, ` : ''}${describe(chosen, names()[point])}`);
  } else say(`Face ${face + 1} of ${state.current.faces.length}.`);
}

/** Scroll the panel, but not the page: on a phone the image would scroll away. */
function bringIntoPanel(item) {
  const panel = document.querySelector('.panel');
  const [own, frame] = [item.getBoundingClientRect(), panel.getBoundingClientRect()];
  if (own.top < frame.top) panel.scrollTop += own.top - frame.top - 8;
  else if (own.bottom > frame.bottom) panel.scrollTop += own.bottom - frame.bottom + 8;
}

function describe(point, name) {
  const kind = stateOf(point);
  if (kind === 'absent') return `${plainName(name)}: absent.`;
  const confidence = point.confidence === null ? '' : `, confidence ${Math.round(100 * point.confidence)} %`;
  return `${plainName(name)}: ${point.x.toFixed(1)}, ${point.y.toFixed(1)}${confidence}${kind === 'occluded' ? ', occluded' : ''}.`;
}

/** Change the current image so that it can be undone. */
function edit(act, key = null) {
  if (!state.current || state.live) return;
  change(state.current, act, key);
  touched();
}

/** The current image is as the user wants it now: an answer under way would overwrite that. */
function touched() {
  const image = state.current;
  if (image.record) state.notes.push(`${image.name}: loaded labels were not taken, because it was corrected at the same moment.`);
  Object.assign(image, { status: 'done', problem: '', record: null });
  edits += 1;
  keepSoon();
  refresh();
}

function movePoint(face, point, x, y, key) {
  edit((faces) => place(faces[face].points[point], x, y), key);
}

function nudge(dx, dy, event) {
  const point = currentPoint();
  const by = event.altKey ? 0.1 : event.shiftKey ? 10 : 1;
  if (!point) {
    viewer.pan(-dx * 40, -dy * 40);
    return;
  }
  if (isAbsent(point)) return;
  const [x, y] = viewer.inside(point.x + dx * by, point.y + dy * by);
  movePoint(state.face, state.point, x, y, `nudge ${state.face} ${state.point}`);
  viewer.reveal(x, y);
  say(describe(currentPoint(), names()[state.point]));
}

function setPointState(kind) {
  if (!currentPoint()) return;
  const { box } = currentFace();
  const middle = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
  edit((faces) => setState(faces[state.face].points[state.point], kind, middle));
  say(describe(currentPoint(), names()[state.point]));
}

function stepPoint(by) {
  if (!currentFace()) return;
  const k = names().length;
  const at = state.point === null ? (by > 0 ? 0 : k - 1) : (state.point + by + k) % k;
  select(state.face, at, true);
}

/** Let arrows and drags move the whole chosen face or its box: 'face', 'box', or null to end that. */
function setMoving(what) {
  viewer.moving = what === viewer.moving ? null : what;
  for (const each of ['face', 'box']) pressed(`move-${each}`, viewer.moving === each);
  viewer.draw();
  const word = viewer.moving === 'face' ? 'the face' : 'the box';
  if (viewer.moving) tell(`Arrows, or a drag inside the box, move ${word}; + and − resize it; Esc ends.`);
}

function carry(move, key) {
  if (currentFace()) edit((faces) => moveFace(faces[state.face], { ...move, boxOnly: viewer.moving === 'box' }), key);
}

/** Copy the points of the image that was shown before: into the chosen face's box, or all faces if there is none. */
function copyLast() {
  const image = state.current;
  const { last } = state;
  if (!canAdd()) return;
  if (!state.images.includes(last) || last === image || !last.faces.length) {
    tell('No image with faces was shown before this one.', true);
    return;
  }
  if (image.faces.length) {
    const from = last.faces[Math.min(state.face, last.faces.length - 1)];
    edit((faces) => {
      const face = faces[state.face];
      face.points = copyPoints(from, face.box, face.points);
    });
  } else {
    const [wide, high] = [image.width / last.width, image.height / last.height];
    edit((faces) => faces.push(...last.faces.map((from) => {
      const box = from.box.map((v, k) => v * (k % 2 ? high : wide));
      return { ...structuredClone(from), score: null, about: undefined, box, points: copyPoints(from, box) };
    })));
  }
  tell(`The points of ${last.name} were copied.`);
}

function setBrightness(value) {
  viewer.brightness = Math.min(4, Math.max(0.25, value));
  $('brightness').value = Math.log2(viewer.brightness);
  viewer.draw();
  say(`Brightness ${Math.round(100 * viewer.brightness)} %.`);
}

function setLoupe(on) {
  viewer.loupe = on;
  $('loupe').checked = on;
  const point = viewer.scene.faces[state.face]?.points[state.point];
  if (point && !isAbsent(point)) viewer.look = [point.x, point.y];
  viewer.draw();
}

function deleteFace() {
  if (!currentFace() || state.live) return;
  const number = state.face + 1;
  state.point = null;
  edit((faces) => faces.splice(number - 1, 1));
  tell(`Face ${number} deleted.`);
}

async function addFace(box) {
  setBoxing(false);
  const image = state.current;
  if (!$('find').checked || !sharesPoints()) {
    const points = pointsFor([], [], names());
    edit((faces) => faces.push(newFace({ box, points }, '', true)));
    select(image.faces.length - 1, 0);
    tell(`Face ${image.faces.length} added: click where ${plainName(names()[0])} is.`);
    return;
  }
  tell('Finding the points …');
  try {
    const bitmap = await bitmapOf(image);
    const { style } = choices();
    const found = await ask({ file: image.file, name: image.name, bitmap, boxes: [box], style });
    if (!found || state.current !== image) {
      tell(`The face was not added, because another ${found ? 'image' : 'engine'} was selected.`, true);
      return;
    }
    edit((faces) => faces.push(newFace(found.faces[0], style, true)));
    select(image.faces.length - 1, null);
    tell(`Face ${image.faces.length} added.`);
  } catch (error) {
    if (error.stops) stopFor(error);
    tell(problemText(error), true);
  }
}

function setBoxing(on, keyboard = false) {
  pressed('add-face', on);
  if (on) {
    viewer.startBox(keyboard);
    tell(keyboard ? 'Arrows move the box, + and − resize it, Enter accepts it.' : 'Draw a box around the face.');
  }
}

function history(act, word) {
  if (state.live) return;
  if (act === undo && state.removed.length && !(state.current?.past.at(-1)?.time > state.removed.at(-1).time)) {
    bringBack();
    return;
  }
  if (!state.current || !act(state.current)) return;
  touched();
  say(word);
}

const pressed = (act, on) => {
  for (const button of document.querySelectorAll(`[data-act="${act}"][aria-pressed]`)) {
    button.setAttribute('aria-pressed', String(on));
  }
};

// --- the camera -------------------------------------------------------------------------------------------------

/** The view of a mirror. Only what is seen: points and images keep the sides of the camera. */
function mirrorBitmap(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext('2d');
  context.setTransform(-1, 0, 0, 1, bitmap.width, 0);
  context.drawImage(bitmap, 0, 0);
  return canvas.transferToImageBitmap();
}

const mirrorFaces = (faces, width) => faces.map((face) => {
  const [x0, y0, x1, y1] = face.box;
  const points = face.points.map((point) => ({ ...point, x: width - 1 - point.x }));
  return { ...face, box: [width - x1, y0, width - x0, y1], points };
});

function setMirror(on) {
  state.mirror = on;
  pressed('mirror', on);
}

async function startLive(device = null, before = state.current) {
  const smoother = new Smoother();
  try {
    const live = await startCamera($('video'), device, {
      // One pass unless chosen otherwise: frames without a face would be slow.
      ask: (frame) => ask({ ...frame, ...choices(), effort: choices().effort ?? 'fast', crops: false }),
      shown: (frame, found, rate) => {
        if (!state.live) return;
        const { style } = choices();
        const raw = found.faces.map((face) => newFace(face, style));
        state.current = {
          ...newImage(frame.file, frame.name), ...found, bitmap: frame.bitmap, status: 'done', raw, mirrored: state.mirror,
          about: `${rate.toFixed(0)} a second`,
          faces: state.own ? raw : smoother.next(raw, frame.time, names()), // own points may be absent
        };
        viewer.show(state.mirror ? mirrorBitmap(frame.bitmap) : frame.bitmap, true);
        refresh();
      },
      failed: (error) => {
        stopLive();
        if (error.stops) stopFor(error);
        tell(problemText(error), true);
      },
    });
    state.live = { ...live, before };
    setMirror(!live.rear);
    pressed('camera', true);
    $('live-bar').hidden = false;
    delete $('app').dataset.empty;
    const cameras = await camerasHere();
    $('camera-device').replaceChildren(...cameras.map(({ label, deviceId }, n) => new Option(label || `Camera ${n + 1}`, deviceId)));
    $('camera-device').value = live.device;
    $('camera-device').hidden = cameras.length < 2;
    say('Live. Keep takes the image, Escape stops.');
  } catch (error) {
    showOrNone(before);
    tell(error.name === 'NotAllowedError' ? 'The browser was not allowed to use the camera.'
      : error.name === 'NotFoundError' ? 'There is no camera.' : `The camera did not start: ${error.message}`, true);
  }
}

/** Stop, and keep the visible frame as an image to correct. */
async function keepFrame() {
  if (!state.live) return;
  const seen = state.current;
  const frame = seen?.raw;
  stopLive(false);
  if (!frame) { // there was none yet
    showOrNone(state.images[0]);
    return;
  }
  const blob = await imageBlob(seen.bitmap, 'image/png');
  state.kept += 1;
  const name = `camera-${String(state.kept).padStart(3, '0')}.png`;
  const image = { ...seen, name, file: new File([blob], name, { type: 'image/png' }), about: '', mirrored: false };
  image.faces = frame; // the points of this frame alone, not smoothed over those before
  state.images.push(image);
  edits += 1; // it is nowhere else
  film.add(image, state.current);
  await show(image);
  tell('The image was kept.');
}

function stopLive(back = true) {
  if (!state.live) return;
  const { before } = state.live;
  state.live.stop();
  state.live = null;
  pressed('camera', false);
  $('live-bar').hidden = true;
  if (back) showOrNone(state.images.includes(before) ? before : state.images[0]);
}

// --- downloads --------------------------------------------------------------------------------------------------

const savers = {
  csv: (images) => save(toCsv(images, names()), 'keypoints.csv', 'text/csv'),
  json: (images) => save(toJson(images, names()), 'keypoints.json', 'application/json'),
  measures: (images) => {
    if (!canMeasure(names())) throw new Problem('The measurements need points that this model does not have.');
    save(toMeasurementCsv(images, names()), 'measurements.csv', 'text/csv');
    tell(NOTICE);
  },
  png: async () => {
    if (state.current?.status !== 'done') throw new Problem('This image has no points yet.');
    const scene = {
      faces: state.current.faces, names: names(), edges: state.schema.edges, showNames: state.showNames,
    };
    const stem = state.current.name.replace(/^.*\//, '').replace(/\.[^.]*$/, '');
    save(await toPng(await bitmapOf(state.current), scene), `${stem}-points.png`);
  },
  kaggle: async (images) => {
    if (state.own || state.schema.name !== 'kaggle15') throw new Problem('Kaggle’s format holds only its own 15 points: use COCO.');
    save(await toKaggle(images, names(), bitmapOf), 'training.csv', 'text/csv');
  },
  labels: (images) => save(toLabels(images, names()), 'labels.csv', 'text/csv'),
  coco: async (images) => save(await toCoco(images, state.schema, bitmapOf), 'faces-coco.zip'),
};

async function download(kind) {
  $('download').open = false;
  $('download').querySelector('summary').focus();
  if (kind === 'project') {
    acts.project();
    return;
  }
  if (kind === 'schema') {
    save(JSON.stringify(schemaFile(state.schema), null, 1), 'schema.json', 'application/json');
    return;
  }
  const labels = ['kaggle', 'coco', 'labels'].includes(kind);
  const all = labels && $('only-corrected').checked ? state.images.filter(({ corrected }) => corrected) : state.images;
  const images = all.filter(({ status }) => status === 'done');
  const now = edits;
  try {
    if (kind !== 'png' && !images.some(({ faces }) => faces.length)) {
      throw new Problem(labels ? 'There are no such faces to write.' : 'There are no faces to write.');
    }
    if (kind !== 'png' && !(await takes(all, images, labels))) return;
    if (labels) tell('Cutting the faces out …');
    await savers[kind](images);
    if (kind !== 'png' && kind !== 'measures' && images.length === all.length) saved = now;
    if (kind !== 'measures') tell('Download started.');
  } catch (error) {
    tell(problemText(error), true);
  }
}

/** Say what a file would lack or mix; whether to write it nevertheless. */
async function takes(all, images, labels) {
  const failed = all.filter(({ status }) => status === 'failed').length;
  const styles = stylesOf(images);
  const lines = [];
  if (images.length < all.length) {
    const more = images.length < all.length - failed;
    lines.push(`${images.length} of ${countOf(all, 'image')} done${failed ? `, ${failed} failed` : ''}: ${more ? 'wait, or take these' : 'the others are not in the file'}.`);
  }
  if (state.waiting.length) {
    lines.push(`${countOf(state.waiting, 'labelled image')} not here: add ${state.waiting.length === 1 ? 'it' : 'them'}, or the labels are not in the file.`);
  }
  if (labels && styles.length > 1) {
    const count = (style) => countOf(images.flatMap(({ faces }) => faces.filter((face) => face.style === style)), 'face');
    lines.push(
      `These labels mix label styles, that is different rules for the same point: ${styles.map((style) => `${style} (${count(style)})`).join(', ')}. ` +
      'A model that is trained on them learns neither rule well.',
    );
  }
  if (!lines.length) return true;
  return question('Download these?', lines, 'Take these', images.length < all.length - failed ? 'Wait' : 'Cancel');
}

// --- user input -------------------------------------------------------------------------------------------------

const viewer = new Viewer($('canvas'), {
  select: (face, point) => select(face, point),
  move: movePoint,
  tookBack: (key) => {
    takeBack(state.current, key);
    refresh();
  },
  dropped: (face, point) => say(describe(state.current.faces[face].points[point], names()[point])),
  place: (x, y) => {
    const point = currentPoint();
    if (!point || !isAbsent(point)) return false;
    movePoint(state.face, state.point, x, y, null);
    say(describe(currentPoint(), names()[state.point]));
    const next = currentFace().points[state.point + 1];
    if (next && isAbsent(next) && !next.byHand) select(state.face, state.point + 1); // so that a new face is labelled click by click
    return true;
  },
  carry: (dx, dy, sides, key) => {
    if (sides.length) edit((faces) => moveSides(faces[state.face], sides, dx, dy), key);
    else carry({ dx, dy }, key);
  },
  box: addFace,
  boxCancelled: () => {
    setBoxing(false);
    tell('No box was drawn.');
  },
  zoomed: (scale) => { $('zoom').textContent = `${Math.round(scale * 100)} %`; },
});

const acts = {
  open: () => $('file-input').click(),
  folder: () => $('folder-input').click(),
  labels: () => $('data-input').click(),
  camera: () => (state.live ? stopLive() : startLive()),
  mirror: () => setMirror(!state.mirror),
  keep: keepFrame,
  stop: () => stopLive(),
  cancel: () => pause({ text: 'Cancelled.', button: 'Go on' }),
  resume,
  retry: () => retry([state.current]),
  'retry-all': () => retry(inState('failed')),
  example: async () => {
    const blob = await (await fetch('example.jpg')).blob();
    addFiles([new File([blob], 'example.jpg', { type: 'image/jpeg' })]);
  },
  undo: () => history(undo, 'Undone.'),
  redo: () => history(redo, 'Done again.'),
  'zoom-in': () => viewer.zoom(1.4),
  'zoom-out': () => viewer.zoom(1 / 1.4),
  fit: () => viewer.fit(),
  'zoom-face': () => currentFace() && viewer.zoomTo(viewer.scene.faces[state.face].box),
  names: () => {
    state.showNames = !state.showNames;
    pressed('names', state.showNames);
    refresh();
  },
  'add-face': (event) => {
    if (viewer.boxing) {
      viewer.endBox(false);
      return;
    }
    // A click by key has no position: then the box is drawn with keys as well.
    setBoxing(true, event?.detail === 0 || event?.type === 'keydown');
    $('canvas').focus();
  },
  'move-face': () => currentFace() && setMoving('face'),
  'move-box': () => currentFace() && setMoving('box'),
  copy: copyLast,
  darker: () => setBrightness(viewer.brightness / 2 ** 0.25),
  brighter: () => setBrightness(viewer.brightness * 2 ** 0.25),
  loupe: () => setLoupe(!viewer.loupe),
  downloads: () => {
    $('download').open = true;
    $('download').querySelector('button').focus();
  },
  'delete-face': deleteFace,
  'remove-image': removeImage,
  check,
  filter: () => nextChoice($('filter')),
  order: () => nextChoice($('order')),
  project: () => {
    if (!state.schema) return;
    save(JSON.stringify(projectNow(() => true)), 'project.json', 'application/json');
    saved = edits;
    tell('Download started.');
  },
  previous: () => go(-1),
  next: () => go(1),
};

document.addEventListener('click', (event) => {
  const button = event.target.closest?.('[data-act], [data-save]');
  if (button?.dataset.act) acts[button.dataset.act](event);
  if (button?.dataset.save) download(button.dataset.save);
  for (const menu of document.querySelectorAll('details.menu[open]')) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const canvasKeys = {
  ',': () => stepPoint(-1), '.': () => stepPoint(1), '<': () => stepPoint(-1), '>': () => stepPoint(1),
  h: () => currentPoint() && setPointState(stateOf(currentPoint()) === 'occluded' ? 'visible' : 'occluded'),
  Enter: () => currentPoint() && isAbsent(currentPoint()) && setPointState('visible'),
  Delete: (event) => (event.shiftKey ? deleteFace() : setPointState('absent')),
  Backspace: (event) => (event.shiftKey ? deleteFace() : setPointState('absent')),
};

// Keys for the whole image; not while something is typed into a field.
const pageKeys = {
  f: () => state.current?.faces.length && select((state.face + 1) % state.current.faces.length, state.point, true),
  a: (event) => canAdd() && acts['add-face'](event),
  n: acts.names, o: acts.open, i: acts.labels, c: acts.check, x: acts.filter, t: acts.order, s: acts.project,
  m: acts['move-face'], b: acts['move-box'], v: acts.copy, j: acts.darker, k: acts.brighter, l: acts.loupe, d: acts.downloads, z: acts['zoom-face'],
  '+': acts['zoom-in'], '=': acts['zoom-in'], '-': acts['zoom-out'], 0: acts.fit,
  PageUp: acts.previous, PageDown: acts.next, '?': () => $('keys-dialog').showModal(),
};

/** Keys that move or resize the whole face, or its box. */
function moveKey(event) {
  const arrow = ARROWS[event.key];
  const by = event.altKey ? 0.1 : event.shiftKey ? 10 : 1;
  const grow = { '+': 1.02, '=': 1.02, '-': 1 / 1.02 }[event.key];
  if (event.key === 'Escape' || event.key === 'Enter') setMoving(null);
  else if (arrow) carry({ dx: arrow[0] * by, dy: arrow[1] * by }, `carry ${state.face}`);
  else if (grow) carry({ by: grow }, `resize ${state.face}`);
  else return false;
  return true;
}

function boxKey(event) {
  const arrow = ARROWS[event.key];
  const by = event.shiftKey ? 30 : event.altKey ? 1 : 8;
  if (event.key === 'Escape') viewer.endBox(false);
  else if (event.key === 'Enter') viewer.endBox(true);
  else if (!viewer.boxing.box) return false;
  else if (arrow) viewer.nudgeBox(arrow[0] * by, arrow[1] * by, 0);
  else if (event.key === '+' || event.key === '=') viewer.nudgeBox(0, 0, 2 * by);
  else if (event.key === '-') viewer.nudgeBox(0, 0, -2 * by);
  else return false;
  return true;
}

document.addEventListener('keydown', (event) => {
  if (document.querySelector('dialog[open]')) return;
  const { target } = event;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if ((event.ctrlKey || event.metaKey) && !event.altKey) {
    if (key !== 'z' && key !== 'y') return;
    if (target.matches('input[type="number"], input[type="password"]')) return;
    history(...(key === 'y' || event.shiftKey ? [redo, 'Done again.'] : [undo, 'Undone.']));
    event.preventDefault();
    return;
  }
  const menu = document.querySelector('details.menu[open]');
  if (event.key === 'Escape' && menu) {
    menu.open = false;
    menu.querySelector('summary').focus();
    return;
  }
  const typed = target.matches('select, input:not([type="radio"], [type="checkbox"])');
  if (typed && event.key !== 'Escape') return;
  const onCanvas = target === $('canvas');
  const onPoints = target === $('points');
  const nudges = onCanvas || (state.point !== null && !onPoints && !target.matches('input'));
  let done = true;
  if (viewer.boxing && onCanvas && boxKey(event)) done = true;
  else if (viewer.moving && !typed && (onCanvas || !target.matches('button, summary, input') || event.key === 'Escape') && moveKey(event)) done = true;
  else if (event.key === 'Escape') {
    if (viewer.boxing) viewer.endBox(false);
    else if (state.live) stopLive();
    else if (state.point !== null) select(state.face, null);
  } else if (nudges && ARROWS[event.key]) nudge(...ARROWS[event.key], event);
  else if (canvasKeys[key] && (key !== 'Enter' || onCanvas || onPoints)) canvasKeys[key](event);
  else if (pageKeys[key] && !event.altKey) pageKeys[key](event);
  else done = false;
  if (done) event.preventDefault();
});

$('points').addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === 'Enter') $('canvas').focus();
  const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  const to = { Home: 0, End: names().length - 1 }[event.key];
  if (by) stepPoint(by);
  else if (to !== undefined) select(state.face, to, true);
  else return;
  event.preventDefault();
  event.stopPropagation();
});
$('points').addEventListener('focus', () => state.point === null && stepPoint(1));

/** Arrow keys move among buttons of which one is selected. */
function roving(box, selector) {
  box.addEventListener('keydown', (event) => {
    const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    const all = [...box.querySelectorAll(selector)];
    const at = all.indexOf(document.activeElement);
    if (!by || at < 0) return;
    event.preventDefault();
    event.stopPropagation();
    const next = (at + by + all.length) % all.length;
    all[next].focus();
    all[next].click();
  });
}
roving($('faces'), 'button');
roving($('film'), 'li:not([hidden]) button');
roving(document.querySelector('.tabs'), 'button');

for (const tab of document.querySelectorAll('[role="tab"]')) {
  tab.addEventListener('click', () => {
    for (const each of document.querySelectorAll('[role="tab"]')) {
      const chosen = each === tab;
      each.setAttribute('aria-selected', String(chosen));
      each.tabIndex = chosen ? 0 : -1;
      $(each.getAttribute('aria-controls')).hidden = !chosen;
    }
    refreshMeasures();
  });
}

for (const axis of ['x', 'y']) {
  $(`point-${axis}`).addEventListener('input', ({ target }) => {
    const point = currentPoint();
    const value = target.valueAsNumber;
    if (!point || !Number.isFinite(value)) return;
    const { box } = currentFace();
    const base = isAbsent(point) ? { x: (box[0] + box[2]) / 2, y: (box[1] + box[3]) / 2 } : point;
    const to = { x: base.x, y: base.y, [axis]: value };
    movePoint(state.face, state.point, ...viewer.inside(to.x, to.y), `typed ${state.face} ${state.point}`);
  });
  $(`point-${axis}`).addEventListener('blur', refreshPoints);
}

for (const input of document.querySelectorAll('[name="state"]')) {
  input.addEventListener('change', () => setPointState(input.value));
}

for (const id of ['file-input', 'folder-input', 'data-input']) {
  $(id).addEventListener('change', ({ target }) => {
    if (target.files.length) addFiles(target.files);
    target.value = '';
  });
}

$('camera-device').addEventListener('change', ({ target }) => {
  const { before } = state.live;
  stopLive(false);
  startLive(target.value, before);
});

$('brightness').addEventListener('input', ({ target }) => setBrightness(2 ** target.valueAsNumber));
$('loupe').addEventListener('change', ({ target }) => setLoupe(target.checked));

for (const id of ['filter', 'order']) {
  $(id).addEventListener('change', () => {
    arrange();
    if (!state.queue.includes(state.current) && state.queue.length) show(state.queue[0]);
    else refresh();
  });
}

for (const id of ['style', 'crops', 'effort', 'min-score', 'find']) $(id).addEventListener('change', again);

$('keys').addEventListener('click', () => $('keys-dialog').showModal());

document.addEventListener('paste', (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (files.length) addFiles(files);
});

let over = 0;
document.addEventListener('dragenter', () => {
  over += 1;
  document.body.classList.add('over');
});
document.addEventListener('dragleave', () => {
  over -= 1;
  if (over <= 0) document.body.classList.remove('over');
});
document.addEventListener('dragover', (event) => event.preventDefault());
document.addEventListener('drop', async (event) => {
  event.preventDefault();
  over = 0;
  document.body.classList.remove('over');
  const plain = [...event.dataTransfer.files];
  try {
    const files = await droppedFiles(event.dataTransfer.items);
    addFiles(files.length ? files : plain);
  } catch {
    addFiles(plain);
  }
});

window.addEventListener('beforeunload', (event) => {
  if (edits !== saved) event.preventDefault();
});

// --- engines ----------------------------------------------------------------------------------------------------

const PRIVACY = {
  service: 'Photos are sent to the service that this page comes from, processed in memory and not stored.',
  browser: 'Photos are processed in this browser and are not sent anywhere.',
};

/** Switch to an engine. Until it answers images wait: none goes to the one before. */
async function useEngine(kind) {
  wanted = kind;
  engine = null;
  switching.abort();
  switching = new AbortController();
  waitAgain(inState('busy'));
  const chosen = () => document.querySelector(`[name="engine"][value="${wanted}"]`);
  if (kind === 'browser') tell('Loading the models into this browser (about 20 MB, once) …');
  try {
    const { schema, styles } = await engines[kind].start();
    if (wanted !== kind) return;
    const changed = settled && settled !== kind;
    settled = kind;
    engine = engines[kind];
    state.paused = null;
    state.model = schema;
    if (!state.own) state.schema = schema;
    chosen().checked = true;
    $('privacy').textContent = PRIVACY[kind];
    const style = $('style').value;
    $('style').replaceChildren(...styles.map((each) => new Option(each, each)));
    $('style').value = styles.includes(style) ? style : styles.includes('kaggle-a') ? 'kaggle-a' : styles[0] ?? '';
    refresh();
    if (changed) {
      tell(PRIVACY[kind]);
      again();
    } else work();
  } catch (error) {
    if (wanted !== kind) return;
    tell(problemText(error), true);
    wanted = settled ?? 'service';
    engine = engines[settled] ?? null;
    chosen().checked = true;
    if (kind === wanted) stopFor(error);
    else if (wanted === 'browser') work();
    else if (inState('waiting').length) pause({ text: 'The images that wait were not sent.', button: 'Send them to the service' });
  }
}

for (const input of document.querySelectorAll('[name="engine"]')) {
  input.addEventListener('change', () => useEngine(input.value));
}

$('notice').textContent = NOTICE;
for (const button of document.querySelectorAll('[data-act="camera"]')) button.hidden = !navigator.mediaDevices;
refresh();
await useEngine('service');
document.documentElement.dataset.ready = '';
offerKept();

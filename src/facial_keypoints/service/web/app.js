// The page: shows images with their faces, corrects points and labels own ones. Its modules: state.js, messages.js,
// panel.js (beside the image), viewer.js (the canvas) and loupe.js, film.js and queue.js (which images, in which order),
// labels.js (changes and undo), schema.js, importing.js (files that are read), loading.js and project.js (what is done with
// them, and kept), downloads.js and exporting.js, measurement.js, engines.js (service or browser), live.js (the camera).

import { download, saveProject } from './downloads.js';
import { Browser, Problem, Service } from './engines.js';
import { imageBlob } from './exporting.js';
import { Film } from './film.js';
import { dataOf, droppedFiles } from './importing.js';
import {
  change, copyPoints, isAbsent, isTouched, moveFace, moveSides, newFace, newImage, place, redo, setState, stateOf, takeBack, undo,
} from './labels.js';
import { camerasHere, startCamera } from './live.js';
import { findSuspects, giveLabels, keepSoon, offerKept, readFiles, takeRecord, toSuspect } from './loading.js';
import { NOTICE } from './measurement.js';
import { $, askToken, countOf, pressed, problemText, say, tell } from './messages.js';
import { bringIntoPanel, describe, refreshFaces, refreshMeasures, refreshPoints } from './panel.js';
import { queueOf, sureness } from './queue.js';
import { pointsFor } from './schema.js';
import { Smoother } from './smoothing.js';
import { canAdd, currentFace, currentPoint, inState, names, page, sharesPoints, state, stylesOf } from './state.js';
import { Viewer, plainName } from './viewer.js';

const KEPT_BITMAPS = 4; // decoded photos held at once; a 24-megapixel one takes 100 MB

const service = new Service(askToken);
const engines = { service, browser: new Browser(service) };
let engine = null; // null while one starts
let settled = null; // the engine that answered last
let wanted = null; // the kind that is switched on
let switching = new AbortController(); // ends what was asked of an engine when another is chosen

// --- images ---------------------------------------------------------------------------------------------------

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
  const others = [...files].filter((file) => !isImage(file));
  const images = [...files]
    .filter(isImage)
    .sort((a, b) => (a.webkitRelativePath || '').localeCompare(b.webkitRelativePath || '', undefined, { numeric: true }))
    .map((file) => newImage(file, file.webkitRelativePath || file.name || 'image.png'));
  const data = await dataOf(others); // from here on, `files` may be empty: the input that they are from is cleared
  const skipped = others.filter((file) => !data.includes(file)).map((file) => file.webkitRelativePath || file.name);
  state.skipped.push(...skipped);
  refreshStrip();
  if (data.length) await readFiles(data, images); // first, so that no image is predicted that has labels
  if (!images.length) {
    if (!data.length) tell(others.length ? 'There is no image among these files.' : 'No files were chosen.', true);
    return;
  }
  stopLive();
  state.images.push(...images);
  delete $('app').dataset.empty;
  for (const image of images) film.add(image, state.current);
  giveLabels();
  findSuspects();
  arrange();
  show(($('order').value === 'suspects' && state.queue[0]) || images[0]);
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
  state.edits += 1;
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

/** Go to the suspected label that is `by` further: in this image, or in another one of the film. */
function stepSuspect(by) {
  const all = state.queue.flatMap((image) => (state.suspected.get(image) ?? []).map((suspect) => ({ image, suspect })));
  if (!all.length) {
    tell('No image that is shown has a suspected label; “Labels” loads suspects.csv.', true);
    return;
  }
  const at = all.findIndex(({ suspect }) => suspect === state.suspect);
  const here = all.findIndex(({ image }) => image === state.current);
  const next = (at < 0 ? Math.max(here, 0) : at + by + all.length) % all.length;
  const { image, suspect } = all[next];
  state.suspect = suspect;
  if (image === state.current) toSuspect();
  else show(image);
  tell(`Suspected label ${next + 1} of ${all.length}: ${plainName(suspect.keypoint)}, face ${suspect.face + 1}.`);
}

/** The next choice of a select, as if it was chosen. */
function nextChoice(select) {
  const able = [...select.options].filter(({ disabled }) => !disabled);
  const next = able[(able.indexOf(select.selectedOptions[0]) + 1) % able.length];
  select.value = next.value;
  select.dispatchEvent(new Event('change'));
  tell(`${select.ariaLabel}: ${next.text}.`);
}

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
      if (image.refused) work(); // without these labels it is predicted
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
  refreshList('notes', 'Notes', notes);
  refreshList('not-here', `${countOf(waiting, 'labelled image')} not here`, waiting.map(({ name }) => name + (state.ambiguous.has(name) ? ' (several images could be meant)' : '')));
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
      image.refused && !isTouched(image) ? `labels of ${image.refused.size.join(' × ')} px are not taken: another shape` : '',
      state.suspected.has(image) ? `suspected: ${state.suspected.get(image).map(({ face, keypoint }) => plainName(keypoint) + (faces.length > 1 ? ` of face ${face + 1}` : '')).join(', ')}` : '',
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
  state.edits += 1;
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
  state.edits += 1; // it is nowhere else
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

Object.assign(page, {
  again, arrange, bitmapOf, convert: (...wanted) => service.convert(...wanted), refresh, refreshStrip, select, show, stopLive, viewer, waitAgain, work,
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
  project: saveProject,
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
  g: (event) => stepSuspect(event.shiftKey ? -1 : 1),
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
  if (state.edits !== state.saved) event.preventDefault();
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

// The menu of downloads: what each holds, and what is asked before.

import { Problem } from './engines.js';
import { save, toCoco, toConvert, toCsv, toJson, toKaggle, toMeasurementCsv, toPng, zipOf } from './exporting.js';
import { projectNow } from './loading.js';
import { NOTICE, canMeasure } from './measurement.js';
import { $, countOf, problemText, question, tell } from './messages.js';
import { schemaFile } from './schema.js';
import { names, page, state, stylesOf } from './state.js';

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
    save(await toPng(await page.bitmapOf(state.current), scene), `${stem}-points.png`);
  },
  kaggle: async (images) => {
    if (state.own || state.schema.name !== 'kaggle15') throw new Problem('Kaggle’s format holds only its own 15 points: use COCO.');
    save(await toKaggle(images, names(), page.bitmapOf), 'training.csv', 'text/csv');
  },
  coco: async (images) => save(await toCoco(labelled(images), state.schema, page.bitmapOf), 'faces-coco.zip'),
};

const labelled = (images) => images.filter(({ faces }) => faces.length);

/** Labels in a format that the service writes; a sentence about what was left out, or ''. */
async function saveConverted(images, to) {
  const wanted = labelled(images);
  const sizes = Object.fromEntries(wanted.map(({ name, width, height }) => [name, [width, height]]));
  const file = new File([toConvert(wanted, state.schema)], 'annotations.json');
  // Partners of points that only labels name are told by the service, from their names and places.
  const schema = state.own === 'labels' ? null : schemaFile(state.schema);
  const { files, read, lost } = await page.convert([file], to, sizes, schema);
  const written = Object.entries(files);
  if (written.length === 1) save(written[0][1], to === 'csv' ? 'labels.csv' : written[0][0].replace(/^.*\//, ''));
  else save(zipOf(written.map(([path, text]) => [path, new TextEncoder().encode(text)])), `labels-${to}.zip`);
  const lines = [...read.filter((line) => line.startsWith('left out')), ...lost];
  state.notes.push(...lines.map((line) => `written for ${to}: ${line}`));
  page.refreshStrip();
  return lines.map((line) => `${line}.`).join(' ');
}

export async function download(kind) {
  $('download').open = false;
  $('download').querySelector('summary').focus();
  if (kind === 'project') {
    saveProject();
    return;
  }
  if (kind === 'schema') {
    save(JSON.stringify(schemaFile(state.schema), null, 1), 'schema.json', 'application/json');
    return;
  }
  const format = document.querySelector(`[data-save="${kind}"]`).dataset.to;
  const labels = format || ['kaggle', 'coco'].includes(kind);
  const all = labels && $('only-corrected').checked ? state.images.filter(({ corrected }) => corrected) : state.images;
  const images = all.filter(({ status }) => status === 'done');
  const now = state.edits;
  try {
    if (kind !== 'png' && !images.some(({ faces }) => faces.length)) {
      throw new Problem(labels ? 'There are no such faces to write.' : 'There are no faces to write.');
    }
    if (kind !== 'png' && !(await takes(all, images, labels))) return;
    if (labels) tell(format ? 'The service writes the labels …' : 'Cutting the faces out …');
    const lost = format ? await saveConverted(images, format) : await savers[kind](images);
    if (kind !== 'png' && kind !== 'measures' && images.length === all.length) state.saved = now;
    if (kind !== 'measures') tell(`Download started.${lost ? ` ${lost}` : ''}`, Boolean(lost));
  } catch (error) {
    tell(problemText(error) + (format && error.stops ? ' COCO and the project are written without it.' : ''), true);
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

/** Save the schema, all faces and marks. */
export function saveProject() {
  if (!state.schema) return;
  save(JSON.stringify(projectNow(() => true)), 'project.json', 'application/json');
  state.saved = state.edits;
  tell('Download started.');
}

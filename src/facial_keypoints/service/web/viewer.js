// The image with its points on a canvas: drawing, zoom and pan, dragging, drawing a box. Knows no service and no
// files; reports what the user does through callbacks. Coordinates: an integer is a pixel's centre.

import { drawLoupe } from './loupe.js';

const HIGH_COLOR = [255, 157, 46];
const LOW_COLOR = [108, 92, 231];
const RIM = '#101418';
const BOX = '#4cc3ff';

/** From violet (0) to orange (1), as facial_keypoints/io/drawing.py colours points. */
export function confidenceColor(confidence) {
  const share = Math.min(1, Math.max(0, confidence ?? 1));
  return `rgb(${LOW_COLOR.map((low, i) => Math.round(low + share * (HIGH_COLOR[i] - low))).join(' ')})`;
}

export const plainName = (name) => name.replaceAll('_', ' ');

/** Draw faces onto a context whose units are screen pixels, with a map {scale, x, y} from image pixels. */
export function drawFaces(context, view, { faces, names, edges, face: chosen, point: selected, hover, showNames, unit = 1 }) {
  const at = (x, y) => [(x + 0.5) * view.scale + view.x, (y + 0.5) * view.scale + view.y];
  faces.forEach((face, n) => {
    const active = n === chosen;
    const [x0, y0, x1, y1] = face.box;
    const [left, top] = [x0 * view.scale + view.x, y0 * view.scale + view.y];
    const [wide, high] = [(x1 - x0) * view.scale, (y1 - y0) * view.scale];
    for (const [width, color] of [[(active ? 4 : 3) * unit, RIM], [(active ? 2 : 1) * unit, BOX]]) {
      context.lineWidth = width;
      context.strokeStyle = color;
      context.strokeRect(left, top, wide, high);
    }
    if (faces.length > 1) label(context, String(n + 1), left, top - 4 * unit, unit, active);
    const radius = Math.min(6, Math.max(2.6, wide / unit / 55)) * unit;
    context.lineWidth = Math.max(1, radius * 0.35);
    context.strokeStyle = 'rgb(255 255 255 / 45%)';
    context.beginPath();
    for (const [a, b] of edges) {
      const [p, q] = [face.points[a], face.points[b]];
      if (p.x !== null && q.x !== null) {
        context.moveTo(...at(p.x, p.y));
        context.lineTo(...at(q.x, q.y));
      }
    }
    context.stroke();
    face.points.forEach((point, k) => {
      if (point.x === null) return;
      const [x, y] = at(point.x, point.y);
      const isSelected = active && k === selected;
      const size = radius * (isSelected ? 1.35 : 1);
      dot(context, x, y, size, point, isSelected, unit);
    });
  });
  nameFaces(context, at, { faces, names, chosen, selected, hover, showNames, unit });
}

const RINGS = [16, 30, 46, 64, 84, 106, 130, 156, 184]; // how far a name may stand from its point, with a line to it
const AROUND = Array.from({ length: 16 }, (_, n) => [Math.cos((n * Math.PI) / 8), Math.sin((n * Math.PI) / 8)]);

// Names beside their points, the selected and hovered ones first. Those of the chosen face (or of the only one) are all
// shown, if need be further away with a line; of other faces one that would cover a name or a point is left out.
function nameFaces(context, at, { faces, names, chosen, selected, hover, showNames, unit }) {
  const wanted = [];
  faces.forEach((face, n) => {
    face.points.forEach((point, k) => {
      if (point.x === null) return;
      const asked = (n === chosen && k === selected) || (hover && hover.face === n && hover.point === k);
      const own = n === chosen || faces.length === 1;
      if (asked || showNames) wanted.push({ point, name: plainName(names[k]), rank: asked ? 0 : own ? 1 : 2 });
    });
  });
  wanted.sort((a, b) => a.rank - b.rank);
  context.font = fontOf(unit);
  const around = 4 * unit;
  const taken = faces.flatMap(({ points }) => points.filter(({ x }) => x !== null).map(({ x: px, y: py }) => {
    const [x, y] = at(px, py);
    return [x - around, y - around, x + around, y + around];
  }));
  const { a: across, d: down } = context.getTransform();
  const [limit, bottom] = [context.canvas.width / across, context.canvas.height / down];
  const placed = [];
  for (const { point, name, rank } of wanted) {
    const [x, y] = at(point.x, point.y);
    const [wide, high, gap] = [context.measureText(name).width, 13 * unit, 9 * unit];
    const near = [
      [x + gap, y + 4 * unit], [x - gap - wide, y + 4 * unit], [x - wide / 2, y - gap],
      [x - wide / 2, y + gap + high * 0.8], [x + gap * 0.6, y - gap * 0.8], [x - wide, y - gap * 0.8],
    ];
    const clear = ([left, base]) => left >= 0 && left + wide <= limit && base >= high && base <= bottom && taken.every(
      ([l, t, r, b]) => left > r || left + wide < l || base - high > b || base < t,
    );
    let place = near.find(clear);
    let far = false;
    for (let ring = 0; !place && rank < 2 && ring < RINGS.length; ring += 1) {
      const r = RINGS[ring] * unit;
      place = AROUND.map(([dx, dy]) => [x + r * dx + (wide * (dx - 1)) / 2, y + r * dy + high / 3]).find(clear);
      far = true;
    }
    place ??= rank < 2 ? near[0] : null;
    if (!place) continue;
    const box = [place[0], place[1] - high, place[0] + wide, place[1]];
    taken.push(box);
    placed.push({ name, place });
    if (far) {
      context.lineWidth = unit;
      context.strokeStyle = '#fff';
      context.beginPath();
      context.moveTo(x, y);
      context.lineTo(Math.min(box[2], Math.max(box[0], x)), Math.min(box[3], Math.max(box[1], y)));
      context.stroke();
    }
  }
  for (const { name, place } of placed) label(context, name, ...place, unit);
}

function dot(context, x, y, size, point, selected, unit) {
  const shape = (r) => {
    context.beginPath();
    if (point.byHand) { // a diamond, for people who cannot tell the colours apart
      context.moveTo(x, y - r * 1.25);
      context.lineTo(x + r * 1.25, y);
      context.lineTo(x, y + r * 1.25);
      context.lineTo(x - r * 1.25, y);
      context.closePath();
    } else context.arc(x, y, r, 0, 2 * Math.PI);
  };
  const color = point.byHand ? '#ffffff' : confidenceColor(point.confidence);
  if (selected) {
    context.lineWidth = 2 * unit;
    for (const [r, stroke] of [[size + 5 * unit, RIM], [size + 4 * unit, '#fff']]) {
      context.beginPath();
      context.arc(x, y, r, 0, 2 * Math.PI);
      context.strokeStyle = stroke;
      context.stroke();
    }
  }
  shape(size + Math.max(0.8 * unit, 0.3 * size));
  context.fillStyle = RIM;
  if (point.occluded) { // a ring
    context.lineWidth = Math.max(3.4 * unit, size * 0.9);
    context.strokeStyle = RIM;
    shape(size);
    context.stroke();
    context.lineWidth = Math.max(1.6 * unit, size * 0.45);
    context.strokeStyle = color;
    context.stroke();
    return;
  }
  context.fill();
  shape(size);
  context.fillStyle = color;
  context.fill();
}

const fontOf = (unit) => `600 ${12 * unit}px system-ui, sans-serif`;

function label(context, text, x, y, unit, strong = true) {
  context.font = fontOf(unit);
  context.textBaseline = 'alphabetic';
  context.lineJoin = 'round';
  context.lineWidth = 3.5 * unit;
  context.strokeStyle = RIM;
  context.strokeText(text, x, y);
  context.fillStyle = strong ? '#fff' : '#d5dbe1';
  context.fillText(text, x, y);
}

const CORNERS = [[0, 1], [2, 1], [0, 3], [2, 3]]; // indices of a box's sides

export class Viewer {
  /**
   * @param canvas the canvas to draw on
   * @param on callbacks: select(face, point), move(face, point, x, y, dragKey), tookBack(dragKey), place(x, y),
   *   box([x0, y0, x1, y1]), boxCancelled(), zoomed(scale), dropped(face, point), carry(dx, dy, sides, dragKey)
   */
  constructor(canvas, on) {
    this.canvas = canvas;
    this.on = on;
    this.view = { scale: 1, x: 0, y: 0 };
    this.scene = { faces: [], names: [], edges: [], face: 0, point: null, showNames: false };
    this.bitmap = null;
    this.hover = null;
    this.boxing = null; // {box, keyboard}: the box being drawn
    this.moving = null; // 'face' or 'box': what of the chosen face a drag inside its box moves
    this.brightness = 1;
    this.loupe = false;
    this.look = null; // [x, y]: where the loupe looks
    this.pointers = new Map();
    this.fitted = true;
    this.drags = 0;
    new ResizeObserver(() => this.#resized()).observe(canvas);
    canvas.addEventListener('pointerdown', (event) => this.#down(event));
    canvas.addEventListener('pointermove', (event) => this.#move(event));
    for (const name of ['pointerup', 'pointercancel']) canvas.addEventListener(name, (event) => this.#up(event));
    canvas.addEventListener('pointerleave', () => this.#hovered(null));
    canvas.addEventListener('wheel', (event) => this.#wheel(event), { passive: false });
  }

  /** Another image (or null), shown whole. */
  show(bitmap, keepView = false) {
    const same = this.bitmap && bitmap && this.bitmap.width === bitmap.width && this.bitmap.height === bitmap.height;
    this.bitmap = bitmap;
    this.hover = null;
    this.look = null;
    if (!(keepView && same)) this.fit();
    this.draw();
  }

  update(scene) {
    Object.assign(this.scene, scene);
    this.draw();
  }

  get size() {
    const { width, height } = this.canvas.getBoundingClientRect(); // clientWidth is rounded
    return { width, height };
  }

  #resized() {
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.round(this.size.width * ratio);
    this.canvas.height = Math.round(this.size.height * ratio);
    if (this.fitted) this.fit();
    else this.#keepInside();
    this.paint();
  }

  fit() {
    this.fitted = true;
    if (this.bitmap) {
      const { width, height } = this.size;
      const margin = Math.min(24, width * 0.03);
      const fits = Math.min((width - 2 * margin) / this.bitmap.width, (height - 2 * margin) / this.bitmap.height);
      const scale = Math.max(1e-3, Math.min(fits, 8));
      this.view = {
        scale, x: (width - this.bitmap.width * scale) / 2, y: (height - this.bitmap.height * scale) / 2,
      };
    }
    this.#changedView();
  }

  zoom(factor, x = this.size.width / 2, y = this.size.height / 2) {
    if (!this.bitmap) return;
    const scale = Math.min(64, Math.max(0.02, this.view.scale * factor));
    const by = scale / this.view.scale;
    this.view = { scale, x: x - (x - this.view.x) * by, y: y - (y - this.view.y) * by };
    this.fitted = false;
    this.#keepInside();
    this.#changedView();
  }

  pan(dx, dy) {
    this.view.x += dx;
    this.view.y += dy;
    this.fitted = false;
    this.#keepInside();
    this.#changedView();
  }

  /** Show a face large. */
  zoomTo([x0, y0, x1, y1]) {
    const { width, height } = this.size;
    const scale = Math.min(64, 0.85 * Math.min(width / (x1 - x0), height / (y1 - y0)));
    this.view = { scale, x: width / 2 - ((x0 + x1) / 2) * scale, y: height / 2 - ((y0 + y1) / 2) * scale };
    this.fitted = false;
    this.#changedView();
  }

  /** Pan so that a place of the image is visible. */
  reveal(x, y) {
    this.look = [x, y];
    const [sx, sy] = this.toScreen(x, y);
    const { width, height } = this.size;
    const outside = (v, limit) => (v < 20 ? 20 - v : v > limit - 20 ? limit - 20 - v : 0);
    const [dx, dy] = [outside(sx, width), outside(sy, height)];
    if (dx || dy) this.pan(dx, dy);
  }

  toScreen(x, y) {
    return [(x + 0.5) * this.view.scale + this.view.x, (y + 0.5) * this.view.scale + this.view.y];
  }

  toImage(x, y) {
    return [(x - this.view.x) / this.view.scale - 0.5, (y - this.view.y) / this.view.scale - 0.5];
  }

  /** Draw a box with the pointer, or with keys: it starts in the middle of the visible part. */
  startBox(keyboard) {
    this.boxing = { box: null, keyboard };
    if (keyboard && this.bitmap) {
      const { width, height } = this.size;
      const [x, y] = this.toImage(width / 2, height / 2);
      const half = Math.min(this.bitmap.width, this.bitmap.height, Math.min(width, height) / this.view.scale) / 5;
      this.boxing.box = [x - half, y - half, x + half, y + half];
    }
    this.draw();
  }

  endBox(take) {
    const box = this.boxing?.box;
    this.boxing = null;
    this.draw();
    if (take && box && box[2] - box[0] > 4 && box[3] - box[1] > 4) this.on.box(box);
    else this.on.boxCancelled();
  }

  /** Move and resize the box by keys; pixels of the screen. */
  nudgeBox(dx, dy, grow) {
    const [x0, y0, x1, y1] = this.boxing.box;
    const by = (v) => v / this.view.scale;
    const more = Math.max(by(grow), 4 - (x1 - x0));
    this.boxing.box = [x0 + by(dx) - more / 2, y0 + by(dy) - more / 2, x1 + by(dx) + more / 2, y1 + by(dy) + more / 2];
    this.draw();
  }

  #keepInside() {
    // Part of the image stays visible.
    if (!this.bitmap) return;
    const { width, height } = this.size;
    const [wide, high] = [this.bitmap.width * this.view.scale, this.bitmap.height * this.view.scale];
    this.view.x = Math.min(width - 40, Math.max(40 - wide, this.view.x));
    this.view.y = Math.min(height - 40, Math.max(40 - high, this.view.y));
  }

  #changedView() {
    this.on.zoomed(this.view.scale);
    this.draw();
  }

  draw() {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => this.paint());
  }

  paint() {
    this.drawing = false;
    const context = this.canvas.getContext('2d');
    const { width, height } = this.size;
    const [across, down] = [this.canvas.width / Math.max(1, width), this.canvas.height / Math.max(1, height)];
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.bitmap) return;
    context.setTransform(across, 0, 0, down, 0, 0);
    this.#paintImage(context, this.view, { ...this.scene, hover: this.hover });
    const { scale, x, y } = this.view;
    const box = this.boxing?.box ?? (this.moving && this.scene.faces[this.scene.face]?.box);
    if (box) {
      const [x0, y0, x1, y1] = box;
      context.setLineDash([6, 4]);
      for (const [width, color] of [[4, RIM], [2, '#fff']]) {
        context.lineWidth = width;
        context.strokeStyle = color;
        context.strokeRect(x0 * scale + x, y0 * scale + y, (x1 - x0) * scale, (y1 - y0) * scale);
      }
      context.setLineDash([]);
      context.fillStyle = '#fff';
      for (const [i, j] of this.moving === 'box' ? CORNERS : []) context.fillRect(box[i] * scale + x - 4, box[j] * scale + y - 4, 8, 8);
    }
    if (this.loupe && this.look) {
      drawLoupe(context, { width, height }, this.view, this.look, (to, view) => this.#paintImage(to, view, this.#withoutSelected()));
    }
  }

  /** The scene for the loupe: the selected point would cover the place that is looked at. */
  #withoutSelected() {
    const { faces, face, point } = this.scene;
    const points = (each) => each.points.map((old, k) => (k === point ? { ...old, x: null } : old));
    const seen = faces.map((each, n) => (n === face ? { ...each, points: points(each) } : each));
    return { ...this.scene, faces: seen, point: null, hover: null, showNames: false };
  }

  #paintImage(context, view, scene) {
    const { scale, x, y } = view;
    // Enlarged pixels are not blurred, so that a point can be placed on a pixel.
    context.imageSmoothingEnabled = scale < 3;
    context.imageSmoothingQuality = 'high';
    if (this.brightness !== 1) context.filter = `brightness(${this.brightness})`;
    context.drawImage(this.bitmap, x, y, this.bitmap.width * scale, this.bitmap.height * scale);
    context.filter = 'none';
    drawFaces(context, view, scene);
  }

  #place(event) {
    const frame = this.canvas.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  }

  #near(sx, sy, reach) {
    let best = null;
    let least = reach;
    this.scene.faces.forEach((face, n) => {
      face.points.forEach((point, k) => {
        if (point.x === null) return;
        const [x, y] = this.toScreen(point.x, point.y);
        // A point of the chosen face wins over one of another face at the same place.
        const away = Math.hypot(x - sx, y - sy) - (n === this.scene.face ? 2 : 0);
        if (away < least) [least, best] = [away, { face: n, point: k }];
      });
    });
    return best;
  }

  #faceAt(sx, sy) {
    const [x, y] = this.toImage(sx, sy);
    return this.scene.faces.findIndex(({ box }) => x > box[0] && x < box[2] && y > box[1] && y < box[3]);
  }

  /** What of the chosen face is moved from here: indices of the box's sides, [] for all of it, null for nothing. */
  #held(sx, sy, reach) {
    const box = this.moving && this.scene.faces[this.scene.face]?.box;
    if (!box) return null;
    const { scale, x, y } = this.view;
    const near = ([i, j]) => Math.hypot(box[i] * scale + x - sx, box[j] * scale + y - sy) < reach;
    const corner = this.moving === 'box' ? CORNERS.find(near) : null;
    const [px, py] = this.toImage(sx, sy);
    return corner ?? (px > box[0] && px < box[2] && py > box[1] && py < box[3] ? [] : null);
  }

  #down(event) {
    if (!this.bitmap || (event.pointerType === 'mouse' && event.button > 1)) return;
    this.canvas.setPointerCapture(event.pointerId);
    const [x, y] = this.#place(event);
    this.pointers.set(event.pointerId, [x, y]);
    if (this.pointers.size === 2) {
      this.#takeBack();
      this.action = { kind: 'pinch' };
      return;
    }
    if (this.pointers.size > 1) return;
    if (this.boxing) {
      const start = this.toImage(x, y).map((v) => v + 0.5);
      this.boxing = { box: [...start, ...start], keyboard: false };
      this.action = { kind: 'box', start };
      return;
    }
    const finger = event.pointerType === 'touch';
    const held = event.button === 1 ? null : this.#held(x, y, finger ? 26 : 12);
    if (held) {
      this.drags += 1;
      this.action = { kind: 'carry', sides: held, last: [x, y], key: `drag ${this.drags}` };
      return;
    }
    const hit = event.button === 1 ? null : this.#near(x, y, finger ? 26 : 12);
    const slack = finger ? 8 : 3; // pixels that a click or tap may move
    // A finger drags only the chosen point, so that a swipe over the image moves none.
    if (hit && (!finger || (hit.face === this.scene.face && hit.point === this.scene.point))) {
      const { x: px, y: py } = this.scene.faces[hit.face].points[hit.point];
      const [sx, sy] = this.toScreen(px, py);
      this.drags += 1;
      // The point keeps its distance from the finger, which would cover it.
      this.action = { kind: 'drag', ...hit, off: [sx - x, sy - y], from: [x, y], slack, key: `drag ${this.drags}`, moved: false };
      this.on.select(hit.face, hit.point);
    } else this.action = { kind: 'pan', hit, from: [x, y], last: [x, y], slack, moved: false };
  }

  #move(event) {
    const [x, y] = this.#place(event);
    if (this.bitmap) this.#lookAt(x, y);
    if (!this.pointers.has(event.pointerId)) {
      if (this.bitmap && event.pointerType === 'mouse') this.#hovered(this.boxing ? null : this.#near(x, y, 12));
      return;
    }
    const before = this.pointers.get(event.pointerId);
    this.pointers.set(event.pointerId, [x, y]);
    const action = this.action;
    if (action?.kind === 'pinch' && this.pointers.size === 2) {
      const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const apart = (place) => Math.max(10, Math.hypot(place[0] - other[0], place[1] - other[1]));
      this.pan((x - before[0]) / 2, (y - before[1]) / 2);
      this.zoom(apart([x, y]) / apart(before), (x + other[0]) / 2, (y + other[1]) / 2);
    } else if (action?.kind === 'box') {
      const [px, py] = this.toImage(x, y).map((v) => v + 0.5);
      const [sx, sy] = action.start;
      this.boxing.box = [Math.min(sx, px), Math.min(sy, py), Math.max(sx, px), Math.max(sy, py)];
      this.draw();
    } else if (action?.kind === 'drag') {
      if (!action.moved && Math.hypot(x - action.from[0], y - action.from[1]) < action.slack) return;
      action.moved = true;
      const [px, py] = this.toImage(x + action.off[0], y + action.off[1]);
      this.on.move(action.face, action.point, ...this.inside(px, py), action.key);
    } else if (action?.kind === 'carry') {
      const { scale } = this.view;
      action.moved = true;
      this.on.carry((x - action.last[0]) / scale, (y - action.last[1]) / scale, action.sides, action.key);
      action.last = [x, y];
    } else if (action?.kind === 'pan') {
      if (!action.moved && Math.hypot(x - action.from[0], y - action.from[1]) < action.slack) return;
      action.moved = true;
      this.pan(x - action.last[0], y - action.last[1]);
      action.last = [x, y];
    }
  }

  #up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (event.type === 'pointercancel') this.#takeBack();
    const { action } = this;
    this.action = null;
    if (this.pointers.size) return;
    if (action?.kind === 'box') this.endBox(event.type === 'pointerup');
    else if (action?.kind === 'drag' && action.moved) this.on.dropped(action.face, action.point);
    else if (action?.kind === 'pan' && !action.moved && event.type === 'pointerup') {
      const [x, y] = this.#place(event);
      const [px, py] = this.toImage(x, y);
      if (action.hit) {
        this.on.select(action.hit.face, action.hit.point);
        return;
      }
      const face = this.#faceAt(x, y);
      if (!this.on.place(...this.inside(px, py)) && face >= 0) this.on.select(face, null);
    }
  }

  /** The loupe looks at what the pointer points at or drags. */
  #lookAt(sx, sy) {
    const [dx, dy] = this.action?.kind === 'drag' ? this.action.off : [0, 0];
    this.look = this.toImage(sx + dx, sy + dy);
    if (this.loupe) this.draw();
  }

  /** Forget what the pointer holds: the faces are others now. */
  letGo() {
    if (['drag', 'carry'].includes(this.action?.kind)) this.action = null;
  }

  #takeBack() {
    if (['drag', 'carry'].includes(this.action?.kind) && this.action.moved) this.on.tookBack(this.action.key);
    this.letGo();
  }

  /** The nearest place on the image. */
  inside(x, y) {
    const clip = (v, n) => Math.min(n - 0.5, Math.max(-0.5, v));
    return [clip(x, this.bitmap.width), clip(y, this.bitmap.height)];
  }

  #wheel(event) {
    if (!this.bitmap) return;
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : 1;
    this.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002)), ...this.#place(event));
  }

  #hovered(hit) {
    const changed = hit?.face !== this.hover?.face || hit?.point !== this.hover?.point;
    this.hover = hit;
    const cursor = this.boxing ? 'crosshair' : hit ? 'move' : this.bitmap ? 'grab' : 'default';
    if (this.canvas.style.cursor !== cursor) this.canvas.style.cursor = cursor;
    if (changed) this.draw();
  }
}

// The film: a small copy of each image, with its number of faces and its marks.

const WORDS = { waiting: 'waiting', busy: 'finding faces', failed: 'not read' };
const SIGNS = { waiting: '…', busy: '…', failed: '!' };

export class Film {
  /** @param list the element that holds it; `open(image)` is called when an image is chosen */
  constructor(list, open) {
    this.list = list;
    this.open = open;
    this.buttons = new Map(); // of images
  }

  #button(image) {
    return this.buttons.get(image);
  }

  add(image, current) {
    const item = document.createElement('li');
    const button = document.createElement('button');
    button.type = 'button';
    button.title = image.name;
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [112, 84]; // thousands of them fit into memory
    const badge = document.createElement('span');
    badge.className = 'badge';
    button.append(canvas, badge);
    button.addEventListener('click', () => this.open(image));
    item.append(button);
    this.list.append(item);
    this.buttons.set(image, button);
    if (image.bitmap) this.draw(image);
    this.refresh(image, current);
  }

  remove(image) {
    this.#button(image)?.parentElement.remove();
    this.buttons.delete(image);
  }

  /** Draw the image's small copy. */
  draw(image) {
    const canvas = this.#button(image)?.querySelector('canvas');
    if (!canvas) return;
    const { bitmap, width, height } = image;
    const scale = Math.max(canvas.width / width, canvas.height / height);
    const context = canvas.getContext('2d');
    context.imageSmoothingQuality = 'high';
    context.drawImage(
      bitmap, (canvas.width - width * scale) / 2, (canvas.height - height * scale) / 2, width * scale, height * scale,
    );
  }

  /** Show these images in this order, and no others. */
  arrange(images) {
    const shown = new Set(images);
    for (const [image, button] of this.buttons) button.parentElement.hidden = !shown.has(image);
    images.forEach((image, n) => {
      const item = this.#button(image)?.parentElement;
      if (item && this.list.children[n] !== item) this.list.insertBefore(item, this.list.children[n] ?? null);
    });
  }

  reveal(image) {
    this.#button(image)?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  }

  /** No image is the current one. */
  forget() {
    for (const button of this.list.querySelectorAll('[aria-current]')) {
      button.removeAttribute('aria-current');
      button.tabIndex = -1;
    }
  }

  /** After a change of the image's state. */
  refresh(image, current) {
    const button = this.#button(image);
    if (!button) return;
    const faces = `${image.faces.length} face${image.faces.length === 1 ? '' : 's'}`;
    const badge = button.querySelector('.badge');
    badge.textContent = SIGNS[image.status] ?? image.faces.length;
    badge.classList.toggle('bad', image.status === 'failed');
    for (const [mark, on] of [['edited', image.corrected], ['checked', image.checked]]) {
      const shown = button.querySelector(`.${mark}`);
      if (on && !shown) {
        const span = document.createElement('span');
        span.className = mark;
        button.append(span);
      } else if (!on) shown?.remove();
    }
    button.setAttribute('aria-label', [
      image.name, WORDS[image.status] ?? faces, image.corrected && 'corrected', image.checked && 'checked',
    ].filter(Boolean).join(', '));
    if (image === current) button.setAttribute('aria-current', 'true');
    else button.removeAttribute('aria-current');
    button.tabIndex = image === current ? 0 : -1; // one stop for Tab, arrows go on from it
  }
}

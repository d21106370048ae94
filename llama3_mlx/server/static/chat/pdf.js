// The text of PDF files, by Mozilla's PDF.js, which is loaded with the first one.

const MAX_PAGES = 1000;

/** Return the text of a PDF, its pages in order; throws an Error that says why there is none. */
export async function pdfText(name, bytes) {
  const pdf = await load();
  // Fonts, pictures and scripts of the file are left alone: only its text is read.
  const task = pdf.getDocument({ data: bytes, useSystemFonts: false, disableFontFace: true, useWasm: false, stopAtErrors: false, verbosity: 0 });
  try {
    const file = await task.promise;
    if (file.numPages > MAX_PAGES) throw new Error(`${name} has ${file.numPages} pages; at most ${MAX_PAGES} can go along.`);
    const pages = [];
    for (let number = 1; number <= file.numPages; number++) {
      const page = await file.getPage(number);
      const { items } = await page.getTextContent();
      pages.push(items.map(({ str, hasEOL }) => str + (hasEOL ? "\n" : "")).join(""));
      page.cleanup();
    }
    const text = pages.join("\n\n").trim();
    if (!text) throw new Error(`${name} holds pictures and no text.`);
    return text;
  } catch (error) {
    throw new Error({ PasswordException: `${name} needs a password.`, InvalidPDFException: `${name} is no whole PDF.` }[error.name] ?? error.message);
  } finally {
    await task.destroy();
  }
}

async function load() {
  // With its worker's code at hand PDF.js runs it here: the page's policy lets no worker be started by an address.
  globalThis.pdfjsWorker = await import("../vendor/pdf/worker.js");
  return import("../vendor/pdf/pdf.js");
}

// Hovering and arrow keys say what a mark is; drawings are saved as SVG or PNG, tables are copied as CSV.
(() => {
  const tip = document.getElementById("tip");
  const live = document.getElementById("live");
  let current = null;

  function show(mark, x, y) {
    if (current) current.classList.remove("on");
    current = mark;
    tip.hidden = !mark;
    if (!mark) return;
    mark.classList.add("on");
    tip.textContent = mark.getAttribute("aria-label");
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 4))}px`;
    tip.style.top = `${y + 18 + box.height > innerHeight ? Math.max(4, y - box.height - 12) : y + 18}px`;
  }

  // The browser's own tooltip would come second and cover ours.
  for (const title of document.querySelectorAll("svg .mark > title")) {
    title.parentNode.setAttribute("role", "img");
    title.parentNode.setAttribute("aria-label", title.textContent);
    title.remove();
  }

  document.addEventListener("pointermove", (event) => show(event.target.closest(".mark"), event.clientX, event.clientY));
  document.addEventListener("scroll", () => {
    if (document.activeElement !== current?.ownerSVGElement) show(null); // focusing a drawing may scroll to it
  }, true);
  document.addEventListener("focusout", () => show(null));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") show(null);
    if (event.target.tagName !== "svg" || !/^Arrow|^Home$|^End$/.test(event.key)) return;
    event.preventDefault();
    const marks = [...event.target.querySelectorAll(".mark")];
    const at = marks.indexOf(current);
    const step = /Right|Down/.test(event.key) ? 1 : -1;
    const next = { Home: 0, End: marks.length - 1 }[event.key] ?? (at < 0 ? 0 : (at + step + marks.length) % marks.length);
    const box = marks[next].getBoundingClientRect();
    show(marks[next], box.right, box.bottom);
    live.textContent = tip.textContent;
  });

  function save(content, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(content);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  const inherited = ["fill", "fill-opacity", "stroke", "stroke-opacity", "stroke-width", "stroke-dasharray", "stroke-linejoin",
    "stroke-linecap", "font-family", "font-size", "font-weight", "text-anchor"];

  // The drawing alone, with the colours it has on this page and none of the page's styles.
  function standalone(svg) {
    const copy = svg.cloneNode(true);
    const originals = [svg, ...svg.querySelectorAll("*")];
    [copy, ...copy.querySelectorAll("*")].forEach((element, i) => {
      const style = getComputedStyle(originals[i]);
      for (const name of inherited) element.setAttribute(name, style.getPropertyValue(name));
      element.removeAttribute("class");
      element.removeAttribute("tabindex");
      if (element !== copy && element.hasAttribute("aria-label")) {
        const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
        title.textContent = element.getAttribute("aria-label");
        element.prepend(title);
      }
    });
    const ground = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const box = svg.viewBox.baseVal;
    const frame = { x: -10, y: -10, width: box.width + 20, height: box.height + 20 };
    for (const [name, value] of Object.entries(frame)) ground.setAttribute(name, value);
    ground.setAttribute("fill", getComputedStyle(document.body).backgroundColor);
    copy.prepend(ground);
    copy.setAttribute("viewBox", `-10 -10 ${frame.width} ${frame.height}`);
    copy.setAttribute("width", frame.width);
    copy.setAttribute("height", frame.height);
    return new XMLSerializer().serializeToString(copy);
  }

  async function png(source, scale = 3) {
    const image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(source)}`;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth * scale;
    canvas.height = image.naturalHeight * scale;
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  }

  // A cell with an interval becomes three columns, and numbers are written in full.
  function csv(table) {
    const rows = [...table.rows].map((row) => [...row.cells]);
    const values = (cell) => (cell.dataset.values === undefined ? null : cell.dataset.values.split(" "));
    const width = rows[0].map((_, j) => Math.max(1, ...rows.map((row) => (values(row[j]) ?? [0]).length)));
    const ends = { 2: [" low", " high"], 3: ["", " low", " high"] };
    const quoted = (text) => {
      // A spreadsheet would run a text that begins like a formula.
      const safe = /^[=+@\t\r-]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
      return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
    };
    return rows.map((row, i) => row.flatMap((cell, j) => {
      const text = cell.textContent.trim();
      const given = i === 0 ? (ends[width[j]] ?? [""]).map((end) => text + end) : values(cell) ?? [text];
      return [...given, ...Array(width[j] - given.length).fill("")].map(quoted);
    }).join(",")).join("\r\n") + "\r\n";
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea"); // where the clipboard is refused to pages opened from a file
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const svg = button.closest(".panel")?.querySelector("svg");
    if (button.dataset.does === "svg") save(new Blob([standalone(svg)], { type: "image/svg+xml" }), `${button.dataset.name}.svg`);
    if (button.dataset.does === "png") save(await png(standalone(svg)), `${button.dataset.name}.png`);
    if (button.dataset.does === "csv") {
      await copy(csv(button.parentNode.querySelector("table")));
      live.textContent = "Copied.";
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy as CSV"), 1500);
    }
  });

  window.report = { csv, standalone, png };
})();

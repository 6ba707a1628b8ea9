// Draws each figure from the JSON beside it, in the colours of the reader's light or dark preference.
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  // Both ends leave the page's text colour readable, so that every cell can carry its value.
  const scales = {
    share: [[["0", "#f1f5fa"], ["1", "#7fb0e6"]], [["0", "#1d242d"], ["1", "#2f6db8"]]],
    cosine: [
      [["0", "#e8a074"], ["0.5", "#f5f5f3"], ["1", "#7fb0e6"]],
      [["0", "#a5531f"], ["0.5", "#1d2127"], ["1", "#2f6db8"]],
    ],
  };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function themed(plot) {
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: css("--font"), size: 13, color: css("--text") },
      margin: { l: 64, r: 16, t: 40, b: 44 },
      hoverlabel: { font: { family: css("--font") } },
      ...plot.layout,
    };
    for (const name of ["xaxis", "yaxis", ...Object.keys(layout).filter((key) => /^[xy]axis\d+$/.test(key))]) {
      layout[name] = { gridcolor: css("--line"), zerolinecolor: css("--line"), automargin: true, ...layout[name] };
      if (layout[name].title) layout[name].title = { font: { size: 13 }, ...layout[name].title };
    }
    const data = plot.data.map((trace) => {
      if (trace.error_y) return { ...trace, error_y: { ...trace.error_y, color: css("--soft") } };
      if (trace.type !== "heatmap") return trace;
      return { ...trace, colorscale: scales[trace.meta][dark.matches ? 1 : 0], textfont: { color: css("--text") } };
    });
    return [data, layout, { responsive: true, displayModeBar: false }];
  }

  function draw() {
    for (const source of document.querySelectorAll("script[type='application/json']")) {
      Plotly.react(source.previousElementSibling, ...themed(JSON.parse(source.textContent)));
    }
  }

  dark.addEventListener("change", draw);
  draw();
})();

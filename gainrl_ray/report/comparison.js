// Comparison: which curve over what, which measure, which strategies; all kept in the address.

{
  const DEFAULTS = {
    metric: "eval_accuracy", axis: "steps", measure: "final_accuracy", baseline: data.baselines[0] ?? "",
  };
  const hidden = () => new Set((state.get("hide") ?? "").split(",").filter((name) => name));
  const chosen = (key, options) => (state.get(key) in options ? state.get(key) : DEFAULTS[key]);
  const baselines = Object.fromEntries(data.baselines.map((name) => [name, name]));

  function select(place, key, label, options) {
    const input = element("select", {}, ...Object.entries(options).map(([name, text]) => new Option(text, name)));
    input.addEventListener("change", () => setState({ [key]: input.value === DEFAULTS[key] ? null : input.value }));
    document.getElementById(place)?.append(element("label", {}, label, input));
    watchers.push(() => { input.value = chosen(key, options); });
    return input;
  }

  select("curve-controls", "metric", "figure", data.metrics);
  select("curve-controls", "axis", "against", data.axes);
  select("measure-controls", "measure", "measure", data.measures);
  if (data.baselines.length > 1) select("measure-controls", "baseline", "difference from", baselines);

  // A chip for every strategy takes it out of all plots and tables, and brings it back.
  const borders = { solid: "solid", dash: "dashed", dot: "dotted", dashdot: "double" };
  for (const [name, [colour, dash]] of Object.entries(data.styles)) {
    const swatch = element("i", { style: `border-top-style:${borders[dash]};border-top-color:${colour}` });
    const chip = element("button", { type: "button", class: "chip" }, swatch, name);
    chip.addEventListener("click", () => {
      const names = hidden();
      if (!names.delete(name)) names.add(name);
      setState({ hide: [...names].join(",") });
    });
    document.getElementById("strategies")?.append(chip);
    watchers.push(() => chip.setAttribute("aria-pressed", String(!hidden().has(name))));
  }

  function drawn(place, name) {
    const target = document.querySelector(`[data-plot="${place}"]`);
    if (!target || !data.plots[name]) return;
    const names = hidden();
    const figure = data.plots[name];
    target.dataset.shown = name;
    const layout = structuredClone(figure.layout);
    layout.yaxis.categoryarray = layout.yaxis.categoryarray?.filter((label) => !names.has(label));
    draw(target, { layout, data: figure.data.filter((trace) => !names.has(trace.legendgroup)) });
  }

  function show() {
    const [metric, axis] = [chosen("metric", data.metrics), chosen("axis", data.axes)];
    const [measure, baseline] = [chosen("measure", data.measures), chosen("baseline", baselines)];
    drawn("curve", `${metric}/${axis}`);
    drawn("measure", `mean/${measure}`);
    drawn("difference", `${baseline}/${measure}`);
    const names = hidden();
    for (const row of document.querySelectorAll("tr[data-strategy]")) row.hidden = names.has(row.dataset.strategy);
  }

  const others = redraw;
  redraw = () => {
    others();
    watchers.forEach((watcher) => watcher());
  };
  watchers.push(show);
  redraw();
}

"use strict";
// What all pages do: the state in the address, light and dark, contents, plots, reloading a served page.

const data = JSON.parse(document.getElementById("data").textContent);

// --- state: what a person chose, kept in the part of the address after "#" so that a view is a link
const state = new Map();
const watchers = [];

function readState() {
  state.clear();
  for (const [key, value] of new URLSearchParams(location.hash.slice(1))) state.set(key, value);
}

function setState(changes) {
  for (const [key, value] of Object.entries(changes)) {
    if (value === "" || value === null) state.delete(key);
    else state.set(key, String(value));
  }
  history.replaceState(null, "", "#" + new URLSearchParams([...state]));
  watchers.forEach((watcher) => watcher());
}

window.addEventListener("hashchange", () => {
  readState();
  watchers.forEach((watcher) => watcher());
  goTo(state.get("at"));
});
readState();

// --- elements; texts never become HTML
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// --- contents
function goTo(id) {
  const target = id && document.getElementById(id);
  if (target) target.scrollIntoView();
}

for (const part of document.querySelectorAll("main > section[id]")) {
  const link = element("a", { href: "#at=" + part.id }, part.querySelector("h2").textContent);
  link.addEventListener("click", (event) => {
    event.preventDefault();
    setState({ at: part.id });
    goTo(part.id);
  });
  document.getElementById("contents").append(link);
}

// --- light and dark: what the system says until a person chooses
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const themeButton = document.getElementById("theme");

function remembered(key, value) {
  try {
    if (value !== undefined) localStorage.setItem(key, value);
    return localStorage.getItem(key);
  } catch {
    return null; // storage is closed to some pages; the choice then lasts as long as the page
  }
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : systemDark.matches;
}

function showTheme() {
  themeButton.textContent = isDark() ? "Light" : "Dark";
  themeButton.title = `Switch to ${isDark() ? "light" : "dark"}`;
  redraw();
}

themeButton.addEventListener("click", () => {
  const next = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  remembered("theme", next);
  showTheme();
});
systemDark.addEventListener("change", showTheme);
if (["light", "dark"].includes(remembered("theme"))) document.documentElement.dataset.theme = remembered("theme");

// --- plots
const narrow = matchMedia("(max-width: 700px)");

function themed(layout) {
  const style = getComputedStyle(document.body);
  const colour = (name) => style.getPropertyValue(name).trim();
  const made = {
    ...layout,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("--text"), family: style.fontFamily, size: narrow.matches ? 11 : 13 },
    hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--edge"), font: { color: colour("--text") } },
    dragmode: narrow.matches ? false : "zoom", // a finger scrolls the page
  };
  for (const axis of Object.keys(layout).filter((name) => /^[xy]axis\d*$/.test(name))) {
    made[axis] = {
      ...layout[axis],
      title: { ...layout[axis].title, font: { size: narrow.matches ? 11 : 13 } },
      gridcolor: colour("--grid"),
      zerolinecolor: colour("--grid"),
      linecolor: colour("--edge"),
      tickcolor: colour("--edge"),
    };
  }
  return made;
}

function draw(place, figure = data.plots[place.dataset.plot]) {
  const ink = getComputedStyle(document.documentElement).getPropertyValue("--text").trim();
  const traces = figure.data.map((trace) =>
    trace.meta === "ink" ? { ...trace, line: { ...trace.line, color: ink } } : trace
  );
  return Plotly.react(place, traces, themed(figure.layout), {
    responsive: true,
    displayModeBar: false,
  });
}

// Draws every plot whose place has its name; a page that chooses what to draw puts its own in here.
let redraw = () => {
  document.querySelectorAll("[data-plot]").forEach((place) => {
    if (data.plots[place.dataset.plot]) draw(place);
  });
};
showTheme();

// --- a served page reloads itself when the run has gone on, and stays where it was
const version = document.body.dataset.version;
if (version) {
  const key = "scroll " + location.pathname;
  const y = sessionStorage.getItem(key);
  if (y !== null) scrollTo(0, Number(y));
  sessionStorage.removeItem(key);
  setInterval(async () => {
    const found = await fetch("version").then((answer) => (answer.ok ? answer.text() : version), () => version);
    const typing = ["INPUT", "SELECT"].includes(document.activeElement?.tagName);
    if (found !== version && !typing) {
      sessionStorage.setItem(key, scrollY);
      location.reload();
    }
  }, 3000);
} else {
  goTo(state.get("at"));
}

/** Light, dark, or as the system has it. */

import { onButton, setIcon } from "./dom.ts";

type Theme = "auto" | "light" | "dark";

const KEY = "mobile-sam-theme";
const NEXT: Readonly<Record<Theme, Theme>> = { auto: "light", light: "dark", dark: "auto" };
const NAMES: Readonly<Record<Theme, string>> = { auto: "as the system", light: "light", dark: "dark" };
const ICONS: Readonly<Record<Theme, string>> = { auto: "contrast", light: "sun", dark: "moon" };
const BAR_COLOURS = { light: "#fbfaf7", dark: "#1b2022" };

/** Wire the switch; the choice is kept in this browser. */
export function setUpTheme(): void {
  let theme = storedTheme();
  const button = onButton("theme", () => {
    theme = NEXT[theme];
    storeTheme(theme);
    show();
  });
  const show = () => {
    document.documentElement.dataset["theme"] = theme;
    const text = `Colours: ${NAMES[theme]}`;
    button.title = text;
    button.setAttribute("aria-label", text);
    const svg = button.querySelector("svg");
    if (svg !== null) setIcon(svg, ICONS[theme]);
    const isDark = theme === "dark" || (theme === "auto" && prefersDark.matches);
    const bar = document.querySelector<HTMLMetaElement>("meta[name=theme-color]");
    if (bar !== null) bar.content = isDark ? BAR_COLOURS.dark : BAR_COLOURS.light;
  };
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  prefersDark.addEventListener("change", show);
  show();
}

function storedTheme(): Theme {
  try {
    const stored = localStorage.getItem(KEY);
    return stored === "light" || stored === "dark" ? stored : "auto";
  } catch {
    return "auto";
  }
}

function storeTheme(theme: Theme): void {
  try {
    if (theme === "auto") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, theme);
  } catch {
    // Storage can be forbidden; then the choice lasts as long as the page.
  }
}

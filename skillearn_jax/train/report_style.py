"""How a report looks: on light and dark screens, on paper, on a telephone."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --card: #ffffff; --ink: #1d2430; --soft: #5b6575; --line: #dfe3ea;
  --accent: #2158b8; --tint: #eaf1ff;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #0d1117; --card: #161b22; --ink: #dfe4ee; --soft: #98a3b5;
    --line: #2b3340; --accent: #7aacff; --tint: #16294a;
  }
}
* { box-sizing: border-box }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 ui-sans-serif, system-ui, sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -0.02em; margin: 0 0 12px }
h2 { font-size: 1.2rem; letter-spacing: -0.01em; margin: 0 0 16px }
header p { max-width: 70ch; margin: 0; color: var(--soft); font-size: 1.06rem }
section, .tiles div {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
}
section { padding: 24px; margin-top: 24px }
.tiles {
  display: grid; gap: 12px; margin: 28px 0 0;
  grid-template-columns: repeat(auto-fit, minmax(156px, 1fr));
}
.tiles div { padding: 14px 16px }
dt { color: var(--soft); font-size: 0.84rem }
dd { margin: 2px 0 0; font-size: 1.3rem; font-weight: 650; letter-spacing: -0.01em }
dd small {
  display: block; color: var(--soft); font-size: 0.78rem; font-weight: 400;
  letter-spacing: 0; line-height: 1.35;
}
figure { margin: 0 }
figure + figure, table + figure, section > .wide + figure, figure + .wide { margin-top: 28px }
figure svg { display: block; max-width: 100%; height: auto; margin: 0 auto }
figcaption, .note { color: var(--soft); font-size: 0.88rem; margin: 10px 0 0 }
#normal figcaption, #reduction figcaption { display: none }
.verdict {
  margin: 0 0 20px; padding: 12px 16px; border-left: 4px solid var(--accent);
  background: var(--tint); border-radius: 0 8px 8px 0;
}
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem }
th, td {
  text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; font-weight: 400;
}
thead th { color: var(--soft); font-size: 0.84rem }
.results { margin-top: 20px; font-variant-numeric: tabular-nums; white-space: pre }
.results td, .results thead th + th { text-align: right; padding: 7px 0 7px 14px }
.results tbody tr:first-child > * { font-weight: 650 }
.settings th { width: 34%; color: var(--soft) }
.settings td { overflow-wrap: anywhere }
.settings td, pre { font-family: ui-monospace, Menlo, Consolas, monospace }
pre { margin: 0; font-size: 13px; line-height: 1.35; overflow-x: auto }
details { margin-top: 8px; color: var(--soft); font-size: 0.88rem }
details pre { margin-top: 10px; color: var(--ink) }
summary { cursor: pointer }
.files { margin: 0; padding: 0; list-style: none; columns: 3 200px }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: 3px }
@media screen and (max-width: 700px) {
  main { padding: 24px 12px }
  section { padding: 18px 14px }
  figure .cell { max-width: none }
  figure .plot { max-width: none; width: 680px }
}
@media print {
  body { background: none; font-size: 11pt }
  main { max-width: none; padding: 0 }
  section { border: 0; padding: 0; margin-top: 28px }
  figure, .tiles div, tr { break-inside: avoid }
  h2 { break-after: avoid }
  details { display: none }
}
"""

package hello

import (
	"html"
	"io"
	"strings"
)

// accents colour the page by version, so that a rollout is seen from across the room.
var accents = map[string]string{"1": "#0b7285", "2": "#c2410c"}

// writeHTML writes the page. Values are escaped here: a template engine would be most of this program's memory.
func (s *server) writeHTML(w io.Writer) {
	accent, ok := accents[s.version]
	if !ok {
		accent = "#495057"
	}
	_, _ = strings.NewReplacer(
		"{accent}", accent,
		"{host}", html.EscapeString(s.host),
		"{version}", html.EscapeString(s.version),
		"{ip}", html.EscapeString(s.podIP),
	).WriteString(w, pageHTML)
}

const pageHTML = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Hello from {host}</title>
<style>
  :root { color-scheme: light dark; --paper: #f8f9fa; --card: #fff; --ink: #212529; --soft: #5c636a; --line: #dee2e6 }
  @media (prefers-color-scheme: dark) { :root { --paper: #14181c; --card: #1f252b; --ink: #f1f3f5; --soft: #adb5bd; --line: #343a40 } }
  * { box-sizing: border-box }
  body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1.5rem;
         background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif }
  main { width: min(32rem, 100%); background: var(--card); border: 1px solid var(--line);
         border-top: .5rem solid {accent}; border-radius: .75rem; padding: 2rem }
  h1 { margin: 0 0 .25rem; font-size: 1.75rem }
  p { margin: 0 0 1.5rem; color: var(--soft) }
  dl { display: grid; grid-template-columns: max-content 1fr; gap: .5rem 1.5rem; margin: 0 }
  dt { color: var(--soft) }
  dd { margin: 0; font-family: ui-monospace, monospace; overflow-wrap: anywhere }
  .version { display: inline-block; padding: 0 .6rem; border-radius: 1rem; background: {accent}; color: #fff }
  nav { margin-top: 1.5rem; padding-top: 1rem; border-top: 1px solid var(--line); display: flex; gap: 1rem; flex-wrap: wrap }
  a { color: inherit; text-decoration-color: {accent}; text-decoration-thickness: .125rem; text-underline-offset: .2rem }
</style>
</head>
<body>
<main>
  <h1>Hello from sampan!</h1>
  <p>This page was served by a pod.</p>
  <dl>
    <dt>Host name</dt><dd>{host}</dd>
    <dt>Version</dt><dd><span class="version">{version}</span></dd>
    <dt>Pod IP</dt><dd>{ip}</dd>
  </dl>
  <nav><a href="/healthz">/healthz</a><a href="/slow?ms=1000">/slow?ms=1000</a><a href="/crash">/crash</a></nav>
</main>
</body>
</html>
`

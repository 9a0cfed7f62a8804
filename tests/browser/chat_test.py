#!/usr/bin/env python3
"""Drives the chat page in a real headless Chromium, over WebDriver (chromedriver's HTTP).

Needs python3 and the Debian packages chromium and chromium-driver, nothing else. It starts the
server, opens the page at a phone's and a desktop's size, talks to it as a person does, and checks
what the person sees; screenshots go to --screenshots. Exit code 0 means that all checks held.

    python3 tests/browser/chat_test.py --milpa target/release/milpa --bundle DIR
    python3 tests/browser/chat_test.py --server-command 'target/debug/examples/fake serve --bind {bind}'
"""

import argparse
import base64
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

SIZES = {"phone": (360, 740), "desktop": (1280, 800)}
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
ENTER, ESCAPE, TAB = "\ue007", "\ue00c", "\ue004"
KEY = "una-llave-de-prueba"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(what, condition, seconds=30.0):
    """Waits for a condition that gives something true, and returns that."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(0.03)


def request(method, url, body=None, timeout=60):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(url, data=data, method=method, headers=headers)
    with urllib.request.urlopen(asked, timeout=timeout) as answer:
        return json.load(answer)


class Server:
    """The server under test; `{bind}` in the command is the address to listen on."""

    def __init__(self, command, log):
        self.command, self.log = command, log
        self.port = free_port()
        self.process = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/"

    def start(self, extra=(), environment=None):
        command = [part.replace("{bind}", f"127.0.0.1:{self.port}") for part in self.command]
        self.process = subprocess.Popen(
            command + list(extra),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            env=environment,
        )
        return wait_until("the server answers /health", self.health, 60)

    def health(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}")
        try:
            return request("GET", self.url + "health", timeout=5)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        if self.process:
            self.process.wait()


class Driver:
    """chromedriver, which starts browsers."""

    def __init__(self, chromedriver, log):
        self.port = free_port()
        self.process = subprocess.Popen(
            [chromedriver, f"--port={self.port}", "--allowed-ips=127.0.0.1"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        self.url = f"http://127.0.0.1:{self.port}"
        wait_until("chromedriver is ready", self.is_ready)

    def is_ready(self):
        try:
            return request("GET", self.url + "/status", timeout=5)["value"]["ready"]
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Browser:
    """One fresh browser with a size, a language and a colour scheme."""

    def __init__(self, driver, chromium, size, language="es-PE", dark=False):
        self.profile = tempfile.mkdtemp(prefix="milpa-chromium-")
        arguments = [
            "--headless=new",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-default-apps",
            "--no-default-browser-check",
            f"--user-data-dir={self.profile}",
            f"--lang={language}",
        ]
        if os.geteuid() == 0:
            # Chromium refuses to sandbox itself for root, as in a container.
            arguments.append("--no-sandbox")
        options = {
            "binary": chromium,
            "args": arguments,
            "prefs": {"intl.accept_languages": language},
        }
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        body = {"capabilities": {"alwaysMatch": wanted}}
        session = request("POST", driver.url + "/session", body, timeout=120)
        self.url = f"{driver.url}/session/{session['value']['sessionId']}"
        self.resize(size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.devtools("Emulation.setUserAgentOverride", {
            "userAgent": self.script("return navigator.userAgent"),
            "acceptLanguage": language,
        })

    def command(self, method, path, body=None):
        try:
            return request(method, self.url + path, body)["value"]
        except urllib.error.HTTPError as error:
            value = json.load(error)["value"]
            raise AssertionError(f"{path}: {value['error']}: {value['message']}") from error

    def devtools(self, command, parameters):
        return self.command("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def resize(self, size):
        # A window has a least width; the page's own size has not.
        width, height = size
        self.devtools("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        })

    def slow_network(self, bytes_per_second):
        """Lets answers trickle in, however fast the model is; -1 takes the brake off."""
        self.devtools("Network.enable", {})
        self.devtools("Network.emulateNetworkConditions", {
            "offline": False, "latency": 0,
            "downloadThroughput": bytes_per_second, "uploadThroughput": -1,
        })

    def open(self, url):
        self.command("POST", "/url", {"url": url})

    def script(self, text, *arguments):
        return self.command("POST", "/execute/sync", {"script": text, "args": list(arguments)})

    def element(self, selector):
        found = self.command("POST", "/element", {"using": "css selector", "value": selector})
        return found[ELEMENT]

    def click(self, selector):
        self.command("POST", f"/element/{self.element(selector)}/click", {})

    def type(self, selector, text):
        self.command("POST", f"/element/{self.element(selector)}/value", {"text": text})

    def press(self, key):
        actions = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        body = {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}
        self.command("POST", "/actions", body)

    def text(self, selector):
        """What a person can read there: the text of the last match, or nothing."""
        return self.script(
            "const all = document.querySelectorAll(arguments[0]);"
            "return all.length ? all[all.length - 1].innerText : ''", selector)

    def count(self, selector):
        return self.script("return document.querySelectorAll(arguments[0]).length", selector)

    def is_visible(self, selector):
        return self.script(
            "const e = document.querySelector(arguments[0]); return !!e && e.checkVisibility()",
            selector)

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.command("GET", "/screenshot")))

    def console(self):
        return self.command("POST", "/se/log", {"type": "browser"})

    def close(self):
        try:
            self.command("DELETE", "")
        finally:
            shutil.rmtree(self.profile, ignore_errors=True)


class Checks:
    """The checks of one browser size, in the order in which a person would meet them."""

    def __init__(self, server, folder, name):
        self.server, self.folder, self.name = server, folder, name
        self.shots = 0

    def shoot(self, browser, what):
        self.shots += 1
        browser.screenshot(self.folder / f"{self.name}-{self.shots:02}-{what}.png")

    def fits(self, browser):
        """Nothing hangs over the right edge, and nothing to press is cut off or too small."""
        over = browser.script("""
            const width = document.documentElement.clientWidth;
            const bad = [];
            if (document.documentElement.scrollWidth > width) bad.push('the page scrolls sideways');
            if (document.documentElement.scrollHeight > document.documentElement.clientHeight) {
              bad.push('the page scrolls beside the conversation');
            }
            const main = document.getElementById('scroll');
            if (main.scrollWidth > main.clientWidth) bad.push('the conversation scrolls sideways');
            for (const e of document.querySelectorAll('button, select, input, textarea')) {
              if (!e.checkVisibility() || (document.querySelector('dialog[open]')
                  && !e.closest('dialog'))) continue;
              const box = e.getBoundingClientRect();
              const name = e.id || e.className || e.textContent;
              if (box.left < -1 || box.right > width + 1) bad.push(name + ' is cut off');
              if (box.height < 24 && e.type !== 'range') bad.push(name + ' is too small');
            }
            return bad""")
        assert not over, f"{self.name}: {over}"

    def is_labelled(self, browser):
        """Each control has a name that a screen reader can say."""
        nameless = browser.script("""
            return [...document.querySelectorAll('button, select, input, textarea')]
              .filter((e) => !(e.getAttribute('aria-label') || e.textContent.trim()
                || (e.labels && [...e.labels].some((l) => l.textContent.trim()))))
              .map((e) => e.id || e.outerHTML.slice(0, 60))""")
        assert not nameless, f"controls without a name: {nameless}"

    def is_readable(self, browser):
        """Text has the contrast that WCAG 2.2 AA asks for (4.5 to 1)."""
        weak = browser.script("""
            const parse = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
            const light = ([r, g, b]) => {
              const f = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
              return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b);
            };
            const bad = new Set();
            const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            while (walk.nextNode()) {
              const e = walk.currentNode.parentElement;
              if (!walk.currentNode.data.trim() || !e.checkVisibility()) continue;
              if (e.closest('.visually-hidden, .skip, option, :disabled')) continue;
              let back = e;
              let colour = [0, 0, 0, 0];
              while (back && (colour[3] ?? 1) === 0) {
                colour = parse(getComputedStyle(back).backgroundColor);
                back = back.parentElement;
              }
              const [a, b] = [light(parse(getComputedStyle(e).color)), light(colour)];
              const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
              if (ratio < 4.5) bad.add(`${e.className || e.id || e.tagName} ${ratio.toFixed(2)}`);
            }
            return [...bad]""")
        assert not weak, f"{self.name}: weak contrast: {weak}"

    def is_quiet(self, browser):
        """The console has no error and no warning."""
        entries = [e for e in browser.console() if e["level"] in ("SEVERE", "WARNING")]
        assert not entries, f"the console says: {entries}"

    def open_page(self, browser):
        browser.open(self.server.url)
        wait_until("the model's name is shown",
                   lambda: browser.script(
                       "return document.getElementById('model').dataset.state === 'ready'"))

    def welcome(self, browser, health):
        assert browser.text("#model") == health["model"], browser.text("#model")
        assert browser.script("return document.documentElement.lang") == "es"
        assert browser.is_visible("#welcome")
        is_base = health["chat_format"] == "continuation"
        assert browser.is_visible("#base-note") == is_base
        assert browser.count("#suggestions button") == 3
        for check in (self.fits, self.is_labelled, self.is_readable, self.is_quiet):
            check(browser)
        self.shoot(browser, "welcome")

    def settings(self, browser, max_tokens, seed):
        browser.click("#open-settings")
        self.fits(browser)
        self.is_readable(browser)
        for selector, value in (("#max-tokens", max_tokens), ("#seed", seed)):
            browser.script("document.querySelector(arguments[0]).value = ''", selector)
            browser.type(selector, str(value))
        self.shoot(browser, "settings")
        browser.click("#close-settings")
        assert not browser.is_visible("#settings")

    def answer(self, browser):
        """Sends a message and watches the text come piece by piece."""
        browser.script("""
            window.lengths = [];
            new MutationObserver(() => {
              const texts = document.querySelectorAll('.message.assistant .text');
              if (texts.length) window.lengths.push(texts[texts.length - 1].textContent.length);
            }).observe(document.getElementById('log'), {childList: true, subtree: true})""")
        browser.slow_network(20_000)
        browser.type("#input", "Había una vez, en un pueblo de la sierra,")
        if self.name.startswith("phone"):
            browser.click("#send")
        else:
            browser.press(ENTER)
        if browser.is_visible("#stop"):
            self.shoot(browser, "streaming")
        wait_until("the answer is complete",
                   lambda: browser.count('.message.assistant[data-state="done"]') == 1, 120)
        text = browser.text(".message.assistant .text")
        assert text.strip(), "the answer is empty"
        browser.slow_network(-1)
        lengths = sorted(set(browser.script("return window.lengths")) - {0})
        assert len(lengths) > 2, f"the text did not come in pieces: {lengths}"
        assert browser.text(".message.user .text").startswith("Había una vez")
        assert "tokens/s" in browser.text(".message.assistant .meta"), "no speed is shown"
        assert browser.is_visible("#send") and not browser.is_visible("#stop")
        assert not browser.is_visible("#welcome")
        assert "Respuesta completa" in browser.script(
            "return document.getElementById('status').textContent")
        self.fits(browser)
        self.is_readable(browser)
        self.is_quiet(browser)
        self.shoot(browser, "answer")
        return text

    def same_seed(self, browser, text):
        """The same seed and prompt give the same text."""
        browser.click("#new")
        assert browser.is_visible("#welcome") and browser.count(".message") == 0
        browser.type("#input", "Había una vez, en un pueblo de la sierra,")
        browser.click("#send")
        wait_until("the second answer is complete",
                   lambda: browser.count('.message.assistant[data-state="done"]') == 1, 120)
        again = browser.text(".message.assistant .text")
        assert again == text, f"{again!r} is not {text!r}"

    def languages(self, browser):
        """Each language changes the words, is remembered, and fits."""
        seen = {}
        for language in ("en", "pt", "es"):
            browser.script("""
                const select = document.getElementById('language');
                select.value = arguments[0];
                select.dispatchEvent(new Event('change', {bubbles: true}))""", language)
            assert browser.script("return document.documentElement.lang") == language
            placeholder = browser.script("return document.getElementById('input').placeholder")
            seen[language] = (placeholder, browser.text(".text-button.copy"))
            self.fits(browser)
            self.shoot(browser, f"language-{language}")
        assert len(set(seen.values())) == 3, seen
        browser.script("""
            const select = document.getElementById('language');
            select.value = 'pt';
            select.dispatchEvent(new Event('change', {bubbles: true}))""")
        self.open_page(browser)
        assert browser.script("return document.documentElement.lang") == "pt", "it was forgotten"
        browser.script("""
            const select = document.getElementById('language');
            select.value = 'es';
            select.dispatchEvent(new Event('change', {bubbles: true}))""")
        missing = browser.script("""
            const names = new Set(LANGUAGES.flatMap((l) => Object.keys(STRINGS[l])));
            return LANGUAGES.flatMap((l) => [...names].filter((n) => !STRINGS[l][n])
              .map((n) => l + ': ' + n))""")
        assert not missing, f"words are missing: {missing}"

    def stop(self, browser, max_tokens):
        """The stop button ends the answer and keeps what has come."""
        self.settings(browser, max_tokens, 7)
        # A fast model would be done before a driver's click: the text trickles in, and the page
        # clicks for the person as soon as the first of it is there.
        browser.slow_network(5_000)
        browser.script("""
            new MutationObserver((_, observer) => {
              const text = document.querySelector('.message.assistant .text');
              if (!text || text.textContent === '') return;
              observer.disconnect();
              document.getElementById('stop').click();
            }).observe(document.getElementById('log'), {childList: true, subtree: true})""")
        browser.type("#input", "La tarde caía sobre el río cuando")
        browser.click("#send")
        wait_until("the answer is stopped",
                   lambda: browser.count('.message.assistant[data-state="stopped"]') == 1, 60)
        text = browser.text(".message.assistant .text")
        assert text.strip(), "the text that had come is gone"
        assert "Detenido" in browser.text(".message.assistant .meta")
        browser.slow_network(-1)
        time.sleep(0.5)
        assert browser.text(".message.assistant .text") == text, "text came after the stop"
        assert browser.is_visible("#send") and not browser.is_visible("#stop")
        self.is_quiet(browser)
        self.shoot(browser, "stopped")

    def too_long(self, browser, context_length):
        """A text that does not fit is refused with the numbers, in the person's language."""
        browser.click("#new")
        browser.script("""
            const input = document.getElementById('input');
            input.value = 'maíz frijol calabaza '.repeat(arguments[0]);
            input.dispatchEvent(new Event('input'))""", context_length)
        browser.click("#send")
        wait_until("the refusal is shown", lambda: browser.count(".problem") == 1)
        problem = browser.text(".problem")
        assert "no cabe" in problem and str(context_length) in problem, problem
        self.fits(browser)
        self.shoot(browser, "too-long")
        browser.click(".problem button:last-child")
        assert browser.count(".message") == 0 and browser.is_visible("#welcome")
        assert browser.script("return document.getElementById('input').value").startswith("maíz")
        browser.script("document.getElementById('input').value = ''")
        # The browser itself notes the 400; nothing else may be noted.
        entries = [e for e in browser.console()
                   if e["level"] in ("SEVERE", "WARNING") and "400" not in e["message"]]
        assert not entries, entries

    def server_gone(self, browser):
        """When the server dies the page says so, and the person can try again."""
        browser.click("#new")
        self.server.kill()
        browser.type("#input", "¿Sigues ahí?")
        browser.click("#send")
        wait_until("the loss is shown", lambda: browser.count(".problem") == 1)
        assert "No hay conexión con el servidor" in browser.text(".problem")
        self.fits(browser)
        self.is_readable(browser)
        wait_until("the head says so", lambda: browser.text("#model") == "Servidor sin conexión")
        self.shoot(browser, "server-gone")
        self.server.start()
        browser.click(".problem button")
        wait_until("the answer comes after all", lambda: browser.count(
            '.message.assistant[data-state="done"], .message.assistant[data-state="streaming"]'))
        assert browser.count(".problem") == 0
        if browser.is_visible("#stop"):
            browser.press(ESCAPE)
        wait_until("the page is at rest", lambda: browser.is_visible("#send"), 120)
        # Refused connections are noted by the browser itself; nothing else may be.
        entries = [e for e in browser.console() if e["level"] in ("SEVERE", "WARNING")
                   and "ERR_CONNECTION_REFUSED" not in e["message"]]
        assert not entries, entries

    def keyboard(self, browser):
        """Every control of the page is reached by Tab, in order, with a visible focus."""
        browser.script("document.body.focus(); document.activeElement.blur()")
        reached = []
        for _ in range(14):
            browser.press(TAB)
            reached.append(browser.script("""
                const e = document.activeElement;
                const style = getComputedStyle(e);
                const ring = style.outlineStyle !== 'none'
                  || getComputedStyle(e.parentElement).outlineStyle !== 'none'
                  || e.classList.contains('skip');
                return (e.id || e.className || e.tagName) + (ring ? '' : ' without a ring')"""))
        for wanted in ("skip", "language", "new", "open-settings", "input"):
            assert wanted in reached, f"{wanted} is not reached by Tab: {reached}"
        dark = [name for name in reached if "without a ring" in name and "BODY" not in name]
        assert not dark, dark


def run_size(args, driver, server, folder, name, size, health, dark):
    checks = Checks(server, folder, name + ("-dark" if dark else ""))
    browser = Browser(driver, args.chromium, size, dark=dark)
    try:
        checks.open_page(browser)
        checks.welcome(browser, health)
        context_length = health["context_length"]
        few = min(64, context_length // 4)
        if dark:
            checks.settings(browser, few, 7)
            checks.answer(browser)
            checks.server_gone(browser)
            return
        checks.keyboard(browser)
        checks.settings(browser, few, 7)
        text = checks.answer(browser)
        checks.same_seed(browser, text)
        checks.languages(browser)
        checks.stop(browser, context_length // 2)
        checks.too_long(browser, context_length)
        checks.server_gone(browser)
    except BaseException:
        try:
            checks.shoot(browser, "FAILED")
        except Exception as error:  # noqa: BLE001 - the first failure is the one to tell
            print(f"no screenshot of the failure: {error}", file=sys.stderr)
        raise
    finally:
        browser.close()


def run_key(args, driver, server, folder):
    """A server with a key asks for it, says when it is wrong, and then works."""
    server.kill()
    environment = dict(os.environ, MILPA_API_KEY=KEY)
    server.start(environment=environment)
    browser = Browser(driver, args.chromium, SIZES["phone"], language="pt-BR")
    checks = Checks(server, folder, "key")
    try:
        checks.open_page(browser)
        assert browser.script("return document.documentElement.lang") == "pt"
        wait_until("the key is asked for", lambda: browser.is_visible("#key-dialog"))
        checks.shoot(browser, "asked")
        browser.type("#key", "errada-errada-errada" + ENTER)
        wait_until("the wrong key is told", lambda: browser.is_visible("#key-error"))
        checks.fits(browser)
        checks.is_readable(browser)
        checks.shoot(browser, "wrong")
        browser.type("#key", KEY + ENTER)
        wait_until("the key is taken", lambda: not browser.is_visible("#key-dialog"))
        browser.type("#input", "Era uma vez")
        browser.click("#send")
        wait_until("the answer begins",
                   lambda: browser.text(".message.assistant .text").strip())
        browser.press(ESCAPE)
        wait_until("the page is at rest", lambda: browser.is_visible("#send"), 120)
    finally:
        browser.close()
        server.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--milpa", help="the binary")
    parser.add_argument("--bundle", help="what it serves")
    parser.add_argument("--server-command",
                        help="another server instead; {bind} is replaced by the address")
    parser.add_argument("--screenshots", help="folder for screenshots (a fresh one if absent)")
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    parser.add_argument("--chromedriver", default=shutil.which("chromedriver"))
    args = parser.parse_args()
    if args.server_command:
        command = shlex.split(args.server_command)
    elif args.milpa and args.bundle:
        command = [args.milpa, "serve", args.bundle, "--bind", "{bind}"]
    else:
        parser.error("give --milpa and --bundle, or --server-command")
    if not (args.chromium and args.chromedriver):
        parser.error("chromium and chromedriver are needed: install the Debian packages "
                     "chromium and chromium-driver")
    folder = Path(args.screenshots or tempfile.mkdtemp(prefix="milpa-screenshots-"))
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "server.log", "wb") as server_log, \
            open(folder / "chromedriver.log", "wb") as driver_log:
        server = Server(command, server_log)
        driver = None
        try:
            health = server.start()
            driver = Driver(args.chromedriver, driver_log)
            for name, size in SIZES.items():
                for dark in (False, True):
                    began = time.monotonic()
                    run_size(args, driver, server, folder, name, size, health, dark)
                    scheme = "dark" if dark else "light"
                    print(f"ok  {name} {size[0]}x{size[1]} {scheme}  "
                          f"{time.monotonic() - began:.1f} s")
            run_key(args, driver, server, folder)
            print("ok  key")
        finally:
            server.kill()
            if driver:
                driver.stop()
    print(f"screenshots: {folder}")


if __name__ == "__main__":
    main()

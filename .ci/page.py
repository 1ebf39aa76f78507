"""GET /ui in headless Chromium: a chain that runs, breaks and is back, and what the page shows of it.

`main` lists the behaviours in order; all of them share one browser.
"""

import base64
import contextlib
import hashlib
import http.client
import importlib.util
import itertools
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

PICTURES = Path("target/page")
BYTES_MAX = 12 * 1024
PICTURE_BYTES_MAX = 60_000
# The color of failures in the light scheme.
RED = "#c0141c"
# A slow machine must not fail the test; each wait ends as soon as its condition holds.
WAIT_SECONDS = 60
AXE = Path(importlib.util.find_spec("axe_playwright_python").submodule_search_locations[0], "axe.min.js")


def namespace():
    """The command that gives a process its own host name and makes it process 1, or None."""
    own = ["unshare", "--uts", "--pid", "--fork", "--kill-child"]
    for command in (own, [*own, "--user", "--map-root-user"]):
        with contextlib.suppress(FileNotFoundError):
            if subprocess.call([*command, "hostname", "probe"], stderr=subprocess.DEVNULL) == 0:
                return command
    return None


NAMESPACE = namespace()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def fetch(port, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response, response.read()


class Service:
    """A process of one of the services, under a host name of its own."""

    def __init__(self, program, hostname, **environment):
        self.port = free_port()
        self.hostname = hostname if NAMESPACE else socket.gethostname()
        address = {"HOST": "127.0.0.1", "PORT": str(self.port), "LOG_FORMAT": "off"}
        self.environment = {**os.environ, **address, **environment}
        self.command = [f"target/debug/{program}"]
        if NAMESPACE:
            self.command = [*NAMESPACE, "sh", "-c", 'hostname "$0" && exec "$@"', hostname, *self.command]
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            self.command, env=self.environment, stdout=subprocess.DEVNULL, start_new_session=True
        )
        self.shown_pid = 1 if NAMESPACE else self.process.pid
        until(f"{self.hostname} to serve", self.serves)

    def serves(self):
        assert self.process.poll() is None, f"{self.command} ended with exit code {self.process.returncode}"
        with contextlib.suppress(OSError):
            return fetch(self.port, "/healthz")[0].status == 200

    def crash(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            fetch(self.port, "/traceback")
        assert self.process.wait(WAIT_SECONDS) == 1

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def target(port):
    """The settings of a frontend whose backend has that port."""
    return {"API_BACKEND_URL": "127.0.0.1", "API_BACKEND_PORT": str(port)}


@contextlib.contextmanager
def stub(response):
    """A backend that sends the same bytes for every request. Yields its port."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            self.wfile.write(response)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


class Balancer:
    """Relays each connection to the next of some ports."""

    def __init__(self, ports, port=0):
        self.ports = ports
        self.listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        # Ends with the error that `close` causes.
        with contextlib.suppress(OSError):
            for port in itertools.cycle(self.ports):
                client, _ = self.listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", port))
                except OSError:
                    client.close()
                    continue
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self.relay, args=pair, daemon=True).start()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    @staticmethod
    def relay(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def until(what, condition):
    deadline = time.monotonic() + WAIT_SECONDS
    while not (result := condition()):
        assert time.monotonic() < deadline, f"waited {WAIT_SECONDS} s for {what}"
        time.sleep(0.05)
    return result


class Page:
    """The page in the browser."""

    def __init__(self):
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--lang=en"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Driver("/usr/bin/chromedriver"))
        self.look()

    def look(self, scheme="light", width=1280, height=800):
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        until("the next drawing", self.drawn)

    def drawn(self):
        return self.driver.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 150, true))")

    def command(self, name, **parameters):
        return self.driver.execute_cdp_cmd(name, parameters)

    def open(self, frontend):
        self.driver.get(f"http://127.0.0.1:{frontend.port}/ui")

    def texts(self, selector):
        """The rendered text of each element, with plain spaces."""
        script = (
            "return [...document.querySelectorAll(arguments[0])].map(one => one.innerText.replaceAll('\\xa0', ' '))"
        )
        return self.driver.execute_script(script, selector)

    def text(self, selector):
        return " ".join(self.texts(selector))

    def until(self, selector, pattern):
        def seen():
            return re.search(pattern, self.text(selector))

        try:
            return until(pattern, seen)
        except AssertionError as error:
            raise AssertionError(f"{error} in {selector}: {self.text('body')}") from None

    def requests(self):
        return int(self.texts("dd")[2] or 0)

    def pixels(self, color):
        """Pixels of the timeline in exactly that color, in any notation of CSS."""
        return self.driver.execute_script(
            """
            const one = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d')
            one.fillStyle = arguments[0]
            one.fillRect(0, 0, 1, 1)
            const wanted = new Uint32Array(one.getImageData(0, 0, 1, 1).data.buffer)[0]
            // A copy, because a canvas that is read often is drawn otherwise.
            const { width, height } = document.querySelector('canvas')
            const copy = Object.assign(document.createElement('canvas'), { width, height }).getContext('2d')
            copy.drawImage(document.querySelector('canvas'), 0, 0)
            const { data } = copy.getImageData(0, 0, width, height)
            return new Uint32Array(data.buffer).filter(pixel => pixel === wanted).length
            """,
            color,
        )

    def colors(self, selector):
        """The background colors of what the selector finds."""
        script = "return [...document.querySelectorAll(arguments[0])].map(one => getComputedStyle(one).backgroundColor)"
        return self.driver.execute_script(script, selector)

    def save(self, name):
        PICTURES.mkdir(exist_ok=True)
        self.driver.save_screenshot(str(PICTURES / f"{name}.png"))

    def check_appearance(self, name):
        """In both color schemes and at 320 px: a screenshot, nothing cut off, no complaint of axe-core."""
        for scheme in ("light", "dark"):
            for width, height in ((1280, 800), (320, 1600)):
                self.look(scheme, width, height)
                self.save(f"{name}-{scheme}-{width}")
                wide = self.driver.execute_script("return document.documentElement.scrollWidth")
                assert wide <= width, f"{name}: {wide} px wide on a screen of {width}"
                self.driver.execute_script(AXE.read_text())
                found = self.driver.execute_async_script("axe.run().then(arguments[0])")
                assert len(found["passes"]) > 10, found
                complaints = [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]]
                assert not complaints, f"{name}, {scheme}, {width} px: {complaints}"
        self.look()

    def complaints(self):
        """The console, without the failed requests that this test provokes."""
        refused = r"/(version|metrics)? - Failed to load resource: .*(50[24]|net::ERR_)"
        expected = re.compile(rf"{refused}|WebSocket connection to '\S+/traceback' failed")
        return [entry for entry in self.driver.get_log("browser") if not expected.search(entry["message"])]


def main():
    picture = sys.argv[1] if len(sys.argv) > 1 else None
    with contextlib.ExitStack() as stack:

        def service(*arguments, **environment):
            started = Service(*arguments, **environment)
            stack.callback(started.stop)
            return started

        backend = service("api-backend", "backend-one")
        frontend = service("api-frontend", "frontend-one", **target(backend.port))
        page = Page()
        stack.callback(page.driver.quit)
        if picture:
            draw_picture(page, service, Path(picture))
            return
        for behaviour in (
            serves_one_small_page_that_allows_nothing_but_itself,
            shows_the_chain_and_a_mark_for_each_request,
            shows_the_broken_link_its_word_and_the_length_of_the_gap,
            pauses_and_clears_by_keyboard,
            selects_a_command_by_keyboard,
            stops_while_hidden,
            crashes_the_frontend_after_a_question,
            speaks_french,
            says_what_to_type_without_javascript,
            the_console_tells_of_a_violation,
        ):
            behaviour(page, backend, frontend)
            tell(behaviour)
        if not NAMESPACE:
            print("left out: two backends, because a process cannot have its own host name here")
        for behaviour in (
            *([shows_two_backends_with_their_shares] if NAMESPACE else []),
            crashes_one_of_two_frontends,
            names_the_reason,
            can_be_switched_off,
        ):
            behaviour(page, service, backend)
            tell(behaviour)


def tell(behaviour):
    print(f"ok: {behaviour.__name__.replace('_', ' ')}", flush=True)


def serves_one_small_page_that_allows_nothing_but_itself(page, backend, frontend):
    response, body = fetch(frontend.port, "/ui")
    assert response.status == 200
    assert len(body) <= BYTES_MAX, f"{len(body)} bytes"
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    policy = dict(part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'", policy
    for element in ("script", "style"):
        content = re.search(rf"<{element}[^>]*>(.*?)</{element}>".encode(), body, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
        assert policy[f"{element}-src"] == f"'sha256-{digest}'", f"{element}-src must be 'sha256-{digest}'"
    tag = response.headers["ETag"]
    again, nothing = fetch(frontend.port, "/ui", **{"If-None-Match": tag})
    assert (again.status, nothing, again.headers["ETag"]) == (304, b"", tag)
    assert fetch(frontend.port, "/ui", **{"If-None-Match": '"another"'})[0].status == 200
    assert fetch(backend.port, "/ui")[0].status == 404


def shows_the_chain_and_a_mark_for_each_request(page, backend, frontend):
    page.open(frontend)
    page.until("#now", "✓ Responding")
    page.until("#why", "Je suis une réponse du backend")
    page.until("dd", r"\d{2,}")
    until("20 requests", lambda: page.requests() >= 20)
    life = rf"version: \d+\.\d+\.\d+, pid: {frontend.shown_pid}, restarts: 0"
    page.until("#front", rf"{frontend.hostname}\s+100 %\s+frontend, responses: \d+\s+{life}")
    page.until("#back", rf"{backend.hostname}\s+100 %\s+backend, responses: \d+")
    assert page.texts(".link") == ["✓", "✓"]
    assert page.pixels(page.colors("#back b")[0]) > 100
    assert page.pixels(RED) < 20, "more red than the sign of the lane"
    page.check_appearance("whole")


def shows_the_broken_link_its_word_and_the_length_of_the_gap(page, backend, frontend):
    backend.crash()
    page.until("#now", "^✕ REFUSED$")
    page.until("#why", r"^[\d,.]+ ms without an answer\. GET / on backend API: REFUSED")
    page.until("#log", r"✕ GET / on backend API: [A-Z]+")
    assert page.texts(".link") == ["✓", "✕ REFUSED"]
    assert page.texts(".link.red") == ["✕ REFUSED"]
    until("red marks", lambda: page.pixels(RED) > 100)
    page.check_appearance("broken")
    backend.start()
    gap = page.until("#log", r"✓ Back after ([\d,.]+ ms)")[1]
    page.until("#now", "✓ Responding")
    assert page.texts(".link") == ["✓", "✓"]
    assert page.texts("dd")[4] == gap, "the longest gap is the only one"
    assert int(page.texts("dd")[3]) > 0, "failed"


def pauses_and_clears_by_keyboard(page, backend, frontend):
    body = page.driver.find_element(By.TAG_NAME, "body")
    order = []
    for _ in range(4):
        body.send_keys(Keys.TAB)
        body = page.driver.switch_to.active_element
        order.append(body.get_attribute("id"))
        outline = page.driver.execute_script("return getComputedStyle(document.activeElement).outlineWidth")
        assert outline == "3px", f"{order[-1]} has no visible focus"
    assert order == ["rate", "pause", "clear", "crash"]
    focus = {name: page.driver.find_element(By.ID, name) for name in order}
    focus["rate"].send_keys(Keys.END)
    page.until("#hz", "^50 requests/s$")
    focus["rate"].send_keys(Keys.HOME)
    page.until("#hz", "^1 requests/s$")
    focus["rate"].send_keys(*[Keys.ARROW_RIGHT] * 9)
    focus["pause"].send_keys(Keys.SPACE)
    page.until("#now", "^Paused$")
    focus["clear"].send_keys(Keys.ENTER)
    until("no requests", lambda: page.requests() == 0)
    page.until("#pause", "^Resume$")
    assert page.texts("#back li") == []
    focus["pause"].send_keys(Keys.SPACE)
    page.until("#now", "✓ Responding")


def selects_a_command_by_keyboard(page, backend, frontend):
    page.driver.find_element(By.ID, "crash").send_keys(Keys.TAB)
    selected = page.driver.execute_script("return getSelection().toString()")
    assert selected == "curl 127.0.0.1:8001/traceback", selected
    page.driver.switch_to.active_element.send_keys(Keys.TAB)
    selected = page.driver.execute_script("return getSelection().toString()")
    assert selected.startswith("docker compose stop api-backend"), selected


def stops_while_hidden(page, backend, frontend):
    def served():
        metrics = fetch(frontend.port, "/metrics")[1].decode()
        return re.findall(r'^http_requests_total\{.*route="/",.*', metrics, re.MULTILINE)

    def is_quiet():
        before = served()
        time.sleep(1)
        return before == served()

    assert served(), "no count of requests for /"
    shown = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    until("a second without requests", is_quiet)
    page.driver.close()
    page.driver.switch_to.window(shown)
    page.until("#now", "✓ Responding")
    before = page.requests()
    until("more requests", lambda: page.requests() > before)
    assert page.texts("dd")[3:] == ["0", "0 ms"], "hidden time is neither a failure nor a gap"


def crashes_the_frontend_after_a_question(page, backend, frontend):
    crash = page.driver.find_element(By.ID, "crash")
    crash.click()
    question = page.driver.switch_to.alert
    assert "exit code 1" in question.text
    question.dismiss()
    page.until("#front", rf"pid: {frontend.shown_pid}, restarts: 0$")
    assert frontend.process.poll() is None
    crash.click()
    page.driver.switch_to.alert.accept()
    assert frontend.process.wait(WAIT_SECONDS) == 1
    page.until("#now", "^✕ NO RESPONSE$")
    assert page.texts(".link") == ["✕ NO RESPONSE", "?"]
    frontend.start()
    page.until("#log", "✓ Back after")
    page.until("#front", rf"pid: {frontend.shown_pid}, restarts: 1$")


def speaks_french(page, backend, frontend):
    agent = page.driver.execute_script("return navigator.userAgent")
    page.command("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage="fr-FR")
    page.open(frontend)
    page.until("#now", "✓ Répond")
    assert page.driver.execute_script("return document.documentElement.lang") == "fr"
    words = page.text("body")
    for english in ("requests", "failed", "longest", "Clear", "Crash", "last", "Events", "responses", "restarts"):
        assert english not in words, f"{english}: {words}"
    page.check_appearance("french")
    page.command("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage="en")


def says_what_to_type_without_javascript(page, backend, frontend):
    page.command("Emulation.setScriptExecutionDisabled", value=True)
    page.open(frontend)
    body = page.driver.find_element(By.TAG_NAME, "body").text
    assert re.fullmatch(r"No JavaScript\? Sans JavaScript :\s+curl -i 127\.0\.0\.1:8000/", body), body
    page.command("Emulation.setScriptExecutionDisabled", value=False)


def the_console_tells_of_a_violation(page, backend, frontend):
    complaints = page.complaints()
    assert not complaints, complaints
    page.open(frontend)
    page.driver.execute_script("document.body.append(Object.assign(new Image, { src: '/elsewhere' }))")
    until("a report of it", lambda: any("Content Security Policy" in entry["message"] for entry in page.complaints()))


def shows_two_backends_with_their_shares(page, service, backend):
    other = service("api-backend", "backend-two")
    balancer = Balancer([backend.port, other.port])
    frontend = service("api-frontend", "frontend-two", **target(balancer.port), BACKEND_REUSE="off")
    page.open(frontend)
    until("20 requests", lambda: page.requests() >= 20)
    page.until("#back", "backend-one")
    page.until("#back", "backend-two")
    shares = [int(share.split()[0]) for share in page.texts("#back strong")]
    assert len(shares) == 2 and sum(shares) in (99, 100, 101) and min(shares) >= 40, shares
    assert len(set(page.texts("b"))) == 3, "each has a letter of its own"
    colors = page.colors("b")
    assert len(set(colors)) == 3, colors
    for color in colors[1:]:
        assert page.pixels(color) > 50, color
    page.check_appearance("scaled")
    complaints = page.complaints()
    assert not complaints, complaints


def crashes_one_of_two_frontends(page, service, backend):
    frontends = [service("api-frontend", name, **target(backend.port)) for name in ("frontend-three", "frontend-four")]
    page.driver.get(f"http://127.0.0.1:{Balancer([one.port for one in frontends]).port}/ui")
    until("5 requests on a connection that is kept", lambda: page.requests() >= 5)
    page.driver.find_element(By.ID, "crash").click()
    page.driver.switch_to.alert.accept()

    def ended():
        return [one for one in frontends if one.process.poll() is not None]

    until("the end of one", ended)
    page.until("body", r"Back after|✓ Responding")
    # A browser sends a fetch again at once when a kept connection ends without a response.
    before = page.requests()
    until("more requests", lambda: page.requests() > before + 5)
    assert len(ended()) == 1, "the request was sent twice"


def names_the_reason(page, service, backend):
    response = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with stub(response) as failing, socket.create_server(("127.0.0.1", 0)) as silent:
        for settings, word in (
            (target(failing), "STATUS 500"),
            ({**target(silent.getsockname()[1]), "BACKEND_TIMEOUT_MS": "200"}, "TIMEOUT"),
            ({**target(1), "API_BACKEND_URL": "nowhere.invalid"}, "DNS"),
        ):
            page.open(service("api-frontend", "frontend", **settings))
            page.until("#now", f"^✕ {word}$")
            assert page.texts(".link") == ["✓", f"✕ {word}"]
            assert page.text("#front"), "the frontend that says so is unknown"
    complaints = page.complaints()
    assert not complaints, complaints


def can_be_switched_off(page, service, backend):
    without = service("api-frontend", "frontend-five", UI="off", **target(backend.port))
    assert fetch(without.port, "/ui")[0].status == 404
    unnamed = service("api-frontend", "frontend-six", SERVED_BY="off", **target(backend.port))
    page.open(unnamed)
    page.until("#front", r"^A\s+frontend\s+100 %")
    page.until("#back", r"backend\s+100 %")


def draw_picture(page, service, path):
    """A minute in which a backend failed and came back, and a second one was added. Needs pngquant."""
    first, second = service("api-backend", "7f3c9a21be04"), service("api-backend", "c81e55d0a9f2")
    balancer = Balancer([first.port])
    frontend = service("api-frontend", "3a9d0e77c5b1", **target(balancer.port), BACKEND_REUSE="off")
    page.open(frontend)
    until("half a minute of requests", lambda: page.requests() >= 250)
    balancer.close()
    page.until("#why", r"^1,[3-9]\d\d ms")
    balancer = Balancer([first.port], balancer.port)
    until("some more", lambda: page.requests() >= 400)
    balancer.close()
    Balancer([first.port, second.port], balancer.port)
    until("a minute of requests", lambda: page.requests() >= 560)
    page.look(height=page.driver.execute_script("return document.documentElement.scrollHeight"))
    page.driver.save_screenshot(str(path))
    subprocess.check_call(["pngquant", "--force", "--strip", "--nofs", "--output", path, "64", path])
    assert path.stat().st_size < PICTURE_BYTES_MAX, f"{path}: {path.stat().st_size} bytes"


if __name__ == "__main__":
    main()

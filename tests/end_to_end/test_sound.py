"""What one says is what the others hear: told by the sound that arrives, which is a known tone."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import struct
import subprocess
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest
from playwright.sync_api import Browser, Playwright

from tests.end_to_end.browser import IceChoice, Visitor, chromium
from tests.end_to_end.server import RunningServer, running_server
from tests.node import node_programs

pytestmark = pytest.mark.end_to_end

DIRECT = IceChoice(policy="all")
TONE_HZ = 440
QUIET = 0.001

# Taps what the page plays: each audio element's stream, measured with its volume, and what amplifiers put out.
TAP = """
(() => {
  const elements = new Set();
  const RealAudio = window.Audio;
  window.Audio = function () {
    const element = new RealAudio();
    elements.add(element);
    return element;
  };
  const analysers = new Map();
  const analyserOf = (stream) => {
    if (!analysers.has(stream)) {
      const context = new AudioContext({ sampleRate: 48000 });
      const analyser = context.createAnalyser();
      analyser.fftSize = 8192;
      context.createMediaStreamSource(stream).connect(analyser);
      analysers.set(stream, analyser);
    }
    return analysers.get(stream);
  };
  const gains = [];
  const createGain = AudioContext.prototype.createGain;
  AudioContext.prototype.createGain = function () {
    const gain = createGain.call(this);
    gains.push(gain);
    return gain;
  };
  // Loudness and pitch of the last 170 ms, as played.
  window.heard = () => {
    const playing = [...elements].filter(({ srcObject }) => srcObject !== null);
    if (playing.length !== 1) return { level: 0, hz: 0 };
    const [element] = playing;
    const analyser = analyserOf(element.srcObject);
    const samples = new Float32Array(analyser.fftSize);
    analyser.getFloatTimeDomainData(samples);
    const factor = element.muted ? (gains.at(-1)?.gain.value ?? 0) : element.volume;
    const level = factor * Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
    const bins = new Float32Array(analyser.frequencyBinCount);
    analyser.getFloatFrequencyData(bins);
    const strongest = bins.indexOf(Math.max(...bins.subarray(8)));
    return { level, hz: (strongest * 48000) / analyser.fftSize };
  };
})();
"""


def write_plain_tone(path: Path) -> Path:
    rate = 48_000
    samples = (int(1_500 * math.sin(2 * math.pi * TONE_HZ * n / rate)) for n in range(2 * rate))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return path


@attrs.frozen
class Pair:
    """Ada, who is heard by Ben."""

    ada: Visitor
    ben: Visitor

    def level(self) -> float:
        return float(self.ben.page.evaluate("window.heard().level"))

    def hears(self) -> float:
        """How loud the tone is, now that it is there."""
        self.ben.until(
            f"window.heard().level > {QUIET * 5} && Math.abs(window.heard().hz - {TONE_HZ}) < 12", "the tone"
        )
        return self.level()

    def hears_nothing(self) -> None:
        self.ben.until(f"window.heard().level < {QUIET}", "silence")


@pytest.fixture(scope="module")
def browser(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    tone = write_plain_tone(tmp_path_factory.mktemp("sound") / "tone.wav")
    flags = ("--autoplay-policy=no-user-gesture-required",)
    with chromium(playwright, tone=tone, more_flags=flags) as started:
        yield started


@pytest.fixture
def pair(server: RunningServer, browser: Browser) -> Iterator[Pair]:
    with in_a_call(server, browser) as made:
        yield made


@contextmanager
def in_a_call(server: RunningServer, browser: Browser) -> Iterator[Pair]:
    """A steady tone is noise to a browser: it is asked not to suppress it."""
    contexts = [browser.new_context() for _ in range(2)]
    for context in contexts:
        context.add_init_script(TAP)
        context.add_init_script(
            'localStorage.getItem("tavern.audio") ?? localStorage.setItem("tavern.audio", \'{"noise":"off"}\')'
        )
    ada = Visitor.arrive(contexts[0], server.url, DIRECT)
    link = ada.create_tavern("Friday night")
    ada.join("Ada")
    ben = Visitor.arrive(contexts[1], link, DIRECT)
    ben.join("Ben")
    ben.sees_connected("Ada")
    yield Pair(ada, ben)
    for visitor in (ada, ben):
        assert visitor.complaints == []
    for context in contexts:
        context.close()


def test_a_tone_arrives_as_it_is_and_mute_is_silence(pair: Pair) -> None:
    assert pair.hears() > 0.02
    pair.ada.page.get_by_role("button", name="Mute").click()
    pair.hears_nothing()
    pair.ada.page.keyboard.press("m")
    pair.hears()


def test_deafened_one_hears_nothing_and_says_nothing(pair: Pair) -> None:
    pair.hears()
    pair.ben.page.keyboard.press("d")
    pair.hears_nothing()
    pair.ben.page.get_by_role("button", name="Unmute").wait_for()
    pair.ben.page.get_by_role("button", name="Hear again").click()
    pair.hears()
    pair.ben.page.get_by_role("button", name="Mute", exact=True).wait_for()


def test_everybody_is_as_loud_as_one_wants(pair: Pair, server: RunningServer) -> None:
    usual = pair.hears()
    slider = pair.ben.person("Ada").get_by_label("How loud Ada is")
    slider.fill("0.5")
    pair.ben.until(f"Math.abs(window.heard().level - {usual / 2}) < {usual / 8}", "half as loud")
    slider.fill("2")
    pair.ben.until(f"Math.abs(window.heard().level - {usual * 2}) < {usual / 3}", "twice as loud")
    slider.fill("0")
    pair.hears_nothing()
    pair.ben.page.get_by_role("button", name="Leave").click()
    pair.ben.page.locator("#join").click()
    pair.ben.sees_connected("Ada")
    assert slider.input_value() == "0", "it is remembered"


def test_push_to_talk_is_heard_only_while_it_is_held(pair: Pair) -> None:
    pair.hears()
    page = pair.ada.page
    page.locator("#audio summary").click()
    page.get_by_label("You are heard").select_option("push")
    pair.hears_nothing()
    page.locator("#push-key").click()
    page.keyboard.press("v")
    assert page.locator("#push-key").inner_text() == "V"
    page.get_by_role("heading", name="Friday night").click()
    page.keyboard.down("v")
    pair.hears()
    page.keyboard.up("v")
    pair.hears_nothing()
    page.locator("#display-name").focus()
    page.keyboard.down("v")
    page.keyboard.up("v")
    assert page.locator("#push").get_attribute("class") == "primary", "typing is not talking"
    button = page.locator("#push")
    button.hover()
    page.mouse.down()
    pair.hears()
    page.mouse.up()
    pair.hears_nothing()


def test_a_gate_lets_through_what_is_loud_enough(pair: Pair) -> None:
    pair.hears()
    page = pair.ada.page
    page.locator("#audio summary").click()
    page.get_by_label("You are heard").select_option("gate")
    pair.hears()
    threshold = page.get_by_label("Loud enough from here")
    page.locator("meter").wait_for()
    pair.ada.until("document.querySelector('meter').value > 0.5", "a level at the meter")
    threshold.fill("1")
    pair.hears_nothing()
    threshold.fill("0.3")
    pair.hears()
    page.get_by_label("You are heard").select_option("open")
    pair.hears()


def test_another_microphone_is_used_at_once_and_the_sound_goes_on(pair: Pair) -> None:
    pair.hears()
    page = pair.ada.page
    page.locator("#audio summary").click()
    chooser = page.get_by_label("Microphone", exact=True)
    chooser.locator("option").nth(2).wait_for(state="attached")
    label = chooser.locator("option").nth(2).inner_text()
    chooser.select_option(label=label)
    pair.ada.until(
        f"(await navigator.mediaDevices.enumerateDevices()).some(({{ label }}) => label === {label!r})", "the device"
    )
    pair.ada.until("JSON.parse(localStorage.getItem('tavern.audio')).input !== ''", "what was chosen is remembered")
    assert pair.ada.page.evaluate("window.keptConnections.length") == 1
    pair.ben.hears_more()


def test_where_the_server_has_the_model_noise_is_taken_out_by_it(browser: Browser, tmp_path: Path) -> None:
    """A steady tone is noise to RNNoise. The model is fetched as it is for an image, and is no part of the program."""
    source = Path(__file__).parents[2]
    copy = tmp_path / "src"
    shutil.copytree(source / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
    _node, npm = node_programs()
    starter = tmp_path / "npm"
    starter.write_text(f'#!/bin/sh\nexec {shlex.join(npm)} "$@"\n')
    starter.chmod(0o755)
    fetched = subprocess.run(
        [source / "scripts" / "fetch-noise-model", copy / "tavern" / "web" / "static" / "noise"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert fetched.returncode == 0, fetched.stderr
    with running_server({"PYTHONPATH": str(copy)}) as server, in_a_call(server, browser) as pair:
        pair.hears()
        pair.ben.until("window.heard().level > 0.08", "the tone as loud as the browser makes it by and by")
        page = pair.ada.page
        page.locator("#audio summary").click()
        page.get_by_label("Noise suppression").select_option("rnnoise")
        pair.ben.until("window.heard().level < 0.04", "less noise")
        page.get_by_label("Noise suppression").select_option("off")
        pair.hears()


def test_without_the_model_it_is_not_offered(pair: Pair) -> None:
    page = pair.ada.page
    page.locator("#audio summary").click()
    offered = page.get_by_label("Noise suppression").locator("option").all_inner_texts()
    assert offered == ["The browser\u2019s own", "None"]

"""Reward functions in their process: what they see, what they may give back, how each failure is told."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder.stage import Input
from builder.stages.reward_functions import Limits, RewardProcess
from builder.stages.rewards import RatedRows
from registry.digest import digest_bytes
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROWS = RatedRows(
    rows=[{"prompt": "a", "n": 1}, {"prompt": "b", "n": 2}],
    places=["data/p.jsonl, row 1", "data/p.jsonl, row 2"],
    source="data:data/p.jsonl",
)
ANSWERS = ROWS.answered([0, 1], ["x", "yy"])


def code_input(path: Path) -> Input:
    return Input(
        role="reward",
        name="r",
        path=path,
        digest=digest_bytes(path.read_bytes()),
        artifact=None,
        format="",
        settings={},
        source="code:rewards/r.py",
    )


@contextmanager
def process(folder: Path, text: str, *, call_s: float = 5.0) -> Iterator[RewardProcess]:
    path = folder / "r.py"
    path.write_text(text)
    with RewardProcess(code_input(path), "rate", Limits(call_s=call_s)) as opened:
        yield opened


def refusal(folder: Path, text: str, *, call_s: float = 5.0) -> str:
    with pytest.raises(InvalidError) as caught, process(folder, text, call_s=call_s) as opened:
        opened.rate(ANSWERS)
    return str(caught.value)


def test_it_sees_the_columns_that_it_names(tmp_path: Path) -> None:
    text = "def rate(completions, n):\n    return [len(one) + many for one, many in zip(completions, n)]\n"
    with process(tmp_path, text) as opened:
        assert opened.rate(ANSWERS) == [2.0, 4.0]
        assert opened.rate(ANSWERS.one(1)) == [4.0]
        assert opened.missing(["n"]) == ()
        assert opened.missing([]) == ("n",)


def test_two_processes_draw_the_same_by_lot(tmp_path: Path) -> None:
    text = "import random\ndef rate(completions):\n    return [random.random() for _ in completions]\n"
    drawn = []
    for _ in range(2):
        with process(tmp_path, text) as opened:
            drawn.append(opened.rate(ANSWERS))
    assert drawn[0] == drawn[1]


def test_what_it_starts_ends_with_its_process(tmp_path: Path) -> None:
    text = (
        "import subprocess\n"
        "def rate(completions):\n"
        "    return [float(subprocess.Popen(['sleep', '60']).pid) for _ in completions]\n"
    )
    with process(tmp_path, text) as opened:
        left = [int(number) for number in opened.rate(ANSWERS)]
        assert [is_running(number) for number in left] == [True, True]
    assert wait_until(lambda: not any(is_running(number) for number in left))


def test_what_it_starts_ends_too_where_its_process_ended_by_itself(tmp_path: Path) -> None:
    told = tmp_path / "told"
    text = (
        "import os, pathlib, subprocess\n"
        "def rate(completions):\n"
        f"    pathlib.Path({str(told)!r}).write_text(str(subprocess.Popen(['sleep', '60']).pid))\n"
        "    os._exit(3)\n"
    )
    assert "ended its own process, with status 3" in refusal(tmp_path, text)
    assert wait_until(lambda: not is_running(int(told.read_text())))


def test_a_process_that_does_not_read_is_not_waited_for_without_end(tmp_path: Path) -> None:
    text = (
        "import os, signal, threading, time\n"
        "def rate(completions):\n"
        "    stop = lambda: (time.sleep(0.2), os.kill(os.getpid(), signal.SIGSTOP))\n"
        "    threading.Thread(target=stop, daemon=True).start()\n"
        "    return [0.0 for _ in completions]\n"
    )
    with process(tmp_path, text, call_s=1.0) as opened:
        opened.rate(ANSWERS)
        time.sleep(0.6)
        with pytest.raises(InvalidError, match="took more than 1 s for one call"):
            opened.rate(ROWS.answered([0, 1], ["x" * 500_000, "y"]))


def is_running(number: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(is_so: Callable[[], bool]) -> bool:
    end = time.monotonic() + 5
    while not is_so() and time.monotonic() < end:
        time.sleep(0.01)
    return is_so()


def test_a_function_for_everything_sees_everything(tmp_path: Path) -> None:
    text = "def rate(**given):\n    return [float(sorted(given) == ['completions', 'n', 'prompts'])] * 2\n"
    with process(tmp_path, text) as opened:
        assert opened.rate(ANSWERS) == [1.0, 1.0]


def test_answers_to_messages_are_messages(tmp_path: Path) -> None:
    rows = RatedRows(rows=[{"prompt": [{"role": "user", "content": "a"}]}], places=["f"], source="f")
    text = (
        "def rate(prompts, completions):\n"
        "    whole = prompts[0] + completions[0]\n"
        "    return [float(whole[-1] == {'role': 'assistant', 'content': 'x'})]\n"
    )
    with process(tmp_path, text) as opened:
        assert opened.rate(rows.answered([0], ["x"])) == [1.0]


def test_it_has_none_of_our_variables_and_an_empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH", "GIT_ASKPASS"):
        monkeypatch.setenv(name, "secret")
    text = (
        "import os\n"
        "def rate(completions):\n"
        "    home = os.path.expanduser('~')\n"
        "    seen = [os.listdir(home), os.getcwd() != home, 'secret' in os.environ.values()]\n"
        "    return [float(bool(any(seen))), 1.0]\n"
    )
    with process(tmp_path, text) as opened:
        assert opened.rate(ANSWERS) == [0.0, 1.0]


def test_what_it_prints_is_no_answer(tmp_path: Path) -> None:
    text = "import os, sys\ndef rate(completions):\n    print('{}')\n    os.write(1, b'[]\\n')\n    return [1.0, 2.0]\n"
    with process(tmp_path, text) as opened:
        assert opened.rate(ANSWERS) == [1.0, 2.0]


def test_sets_have_one_order(tmp_path: Path) -> None:
    text = "def rate(completions):\n    return [float(hash('a') % 1000), float(hash('b') % 1000)]\n"
    with process(tmp_path, text) as one, process(tmp_path, text) as other:
        assert one.rate(ANSWERS) == other.rate(ANSWERS)


def test_numbers_of_other_libraries_are_numbers(tmp_path: Path) -> None:
    text = "import numpy\ndef rate(completions):\n    return numpy.array([1, 2], dtype=numpy.float32)\n"
    with process(tmp_path, text) as opened:
        assert opened.rate(ANSWERS) == [1.0, 2.0]


FINITE = (
    "\n  where: rewards/r.py: rate, data/p.jsonl, row 2"
    "\n  mend: make it give plain finite numbers, such as float(x); 0.0 where it has nothing to say"
)
ONE_EACH = "\n  where: rewards/r.py: rate\n  mend: make it give one number for each of `completions`, in their order"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("[1.0]", f"the reward function gave 1 numbers for 2 answers{ONE_EACH}"),
        ("3.0", f"the reward function gave float, not a list of numbers{ONE_EACH}"),
        ("'ab'", f"the reward function gave str, not a list of numbers{ONE_EACH}"),
        ("[0, float('nan')]", f"the reward function gave nan for an answer, which is no finite number{FINITE}"),
        ("[0, float('inf')]", f"the reward function gave inf for an answer, which is no finite number{FINITE}"),
        ("[0, None]", f"the reward function gave NoneType for an answer, which is no finite number{FINITE}"),
        ("[0, True]", f"the reward function gave bool for an answer, which is no finite number{FINITE}"),
        ("[0, '1']", f"the reward function gave str for an answer, which is no finite number{FINITE}"),
    ],
)
def test_it_has_to_give_numbers(tmp_path: Path, given: str, said: str) -> None:
    assert refusal(tmp_path, f"def rate(completions):\n    return {given}\n") == said


def test_the_row_that_it_raises_for_is_told(tmp_path: Path) -> None:
    text = "def rate(completions):\n    return [1 / (2 - len(one)) for one in completions]\n"
    assert refusal(tmp_path, text) == (
        "the reward function raises for an answer: ZeroDivisionError: division by zero (line 2)\n"
        "  where: rewards/r.py: rate, data/p.jsonl, row 2\n"
        "  mend: correct it; it is given what a model may answer, the empty answer too"
    )


def test_a_file_that_cannot_be_loaded(tmp_path: Path) -> None:
    assert refusal(tmp_path, "import nothing_of_the_kind\ndef rate(completions): ...\n") == (
        "the reward function raises when it is loaded: ModuleNotFoundError: No module named 'nothing_of_the_kind' "
        "(line 1)\n  where: rewards/r.py: rate\n  mend: load the file by itself, with the Python of this tool"
    )


@pytest.mark.parametrize("wait", ["while True: pass", "import time; time.sleep(60)"])
def test_a_call_has_its_time(tmp_path: Path, wait: str) -> None:
    assert refusal(tmp_path, f"def rate(completions):\n    {wait}\n", call_s=0.5) == (
        "the reward function took more than 0.5 s for one call\n"
        "  where: rewards/r.py: rate, data/p.jsonl, row 1\n"
        "  mend: make it faster, or raise `reward_s` in .varietal/runner.yaml"
    )


def test_ending_the_process_is_told(tmp_path: Path) -> None:
    said = refusal(tmp_path, "import os\ndef rate(completions):\n    os._exit(3)\n")
    assert said.startswith("the reward function ended its own process, with status 3\n")


def test_an_answer_of_its_own_making_is_none(tmp_path: Path) -> None:
    """It could find the pipe; what it writes there is read as strictly as any answer."""
    text = (
        "import os\n"
        "def rate(completions):\n"
        "    for pipe in range(3, 9):\n"
        "        try:\n"
        "            os.write(pipe, b'[]\\n')\n"
        "        except OSError:\n"
        "            pass\n"
        "    return [0, 0]\n"
    )
    assert refusal(tmp_path, text) == (
        "the reward function writes to the pipe that its numbers come on\n"
        "  where: rewards/r.py: rate, data/p.jsonl, row 1\n"
        "  mend: let it write to files of its own only"
    )


def test_the_bytes_are_those_that_were_verified(tmp_path: Path) -> None:
    path = tmp_path / "r.py"
    path.write_text("def rate(completions):\n    return [0, 0]\n")
    code = code_input(path)
    path.write_text("def rate(completions):\n    return [1, 1]\n")
    with pytest.raises(InvalidError) as caught:
        RewardProcess(code, "rate", Limits())
    assert str(caught.value).startswith("the file was changed while the stage ran\n  where: rewards/r.py")

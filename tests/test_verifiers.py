"""Verifiers of real benchmarks: gold answers are right, others wrong, tricks worth nothing, and nothing raises or hangs.

`tests/data/benchmarks.jsonl` holds a few real rows of each set, with their licences beside them.
"""

from fractions import Fraction
import json
import pathlib
import sys
import time

from hypothesis import given, settings, strategies as st
import pytest

from benchmarks.gold import make_24
from neuromas_jax.tasks.cage import check_cage, run_caged
from neuromas_jax.tasks.judge import Judge
from neuromas_jax.tasks.verifiers import VERIFIERS, evaluate, final_answer, verify

ROWS = [json.loads(line) for line in (pathlib.Path(__file__).parent / "data" / "benchmarks.jsonl").read_text().splitlines()]
KINDS = {"number": "number", "choice": "choice", "boolean": "text", "exact": "text", "expression24": "game24",
         "python_tests": "code"}
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="programs run in a cage on Linux alone")


def facts_of(row):
    kind = KINDS[row["answer_type"]]
    if kind == "game24":
        return {"numbers": [int(word) for word in row["prompt"].split()]}
    if kind == "code" and row["dataset"] == "humaneval":
        name = row["meta"]["entry_point"]
        return {"tests": [row["meta"]["test"], f"check({name})"], "before": row["prompt"], "name": name, "seconds": 20.0}
    if kind == "code":
        return {"tests": ["\n".join(row["meta"]["test_list"])], "seconds": 20.0}
    if kind == "choice":
        return {"options": [line.partition(") ")[2] for line in row["prompt"].splitlines() if line[1:3] == ") "]}
    return {}


def said(row):
    """The gold answer as a model would give it."""
    kind = KINDS[row["answer_type"]]
    if kind == "game24":
        return "Answer: " + make_24(facts_of(row)["numbers"])
    if kind == "code":
        return f"Here it is.\n```python\n{row['answer']}\n```\n" if row["dataset"] == "mbpp" else row["answer"]
    return f"Some thoughts.\nAnswer: {row['answer']}"


PLAIN = [row for row in ROWS if KINDS[row["answer_type"]] != "code"]


def test_gold_answers_of_real_rows_are_right_and_other_rows_answers_wrong():
    for row, other in zip(PLAIN, PLAIN[1:]):
        kind = KINDS[row["answer_type"]]
        assert verify(kind, said(row), row["answer"] or "", facts_of(row)).outcome == "right", row
        if other["answer"] != row["answer"] or kind == "game24":
            wrong = said(other)
            assert wrong == said(row) or verify(kind, wrong, row["answer"] or "", facts_of(row)).reward == 0, (row, other)


BLOCKS = {
    "one block": "```python\n{}\n```", "a shell block before": "```bash\npip install x\n```\nThen:\n```python\n{}\n```",
    "plain text before": "```text\nmy plan\n```\n```python\n{}\n```",
    "output behind": "```python\n{}\n```\nIt prints\n```\n3\n```",
    "usage behind": "```python\n{}\n```\nUse it so:\n```python\nprint(add(1, 2))\n```", "another tag": "```python3\n{}\n```",
    "tildes": "~~~python\n{}\n~~~", "line ends of Windows": "``` python \r\n{}\r\n```", "cut off": "Here:\n```py\n{}",
    "nothing": "{}",
    "the future": "```python\nimport math\nfrom __future__ import annotations\n{}\n```",
}


@linux
@pytest.mark.parametrize("name", BLOCKS)
def test_programs_are_found_in_what_models_write(name):
    message = BLOCKS[name].replace("{}", "def add(a, b):\n    return a + b")
    facts = {"tests": ["assert add(1, 2) == 3"], "name": "add", "seconds": 20.0}
    assert verify("code", message, "", facts).outcome == "right"
    body = {"tests": ["assert add(1, 2) == 3"], "before": "def add(a, b):\n", "name": "add", "seconds": 20.0}
    assert verify("code", "```python\nreturn a + b\n```", "", body).outcome == "right"


@pytest.mark.parametrize("message", ["```python\n```", "```\n\n", "``````", "```python\n  \n```\n", "```\x00```", "~~~", "\n"])
def test_blocks_with_nothing_in_them(message):
    assert verify("code", message, "", {"tests": ["raise ValueError"], "before": "def f():\n", "name": "f"}).reward == 0


@pytest.mark.parametrize("program", [
    "import builtins; builtins.exec = lambda *a: None", "import sys; sys._getframe(1).f_locals", "import os; os._exit(0)",
    "import gc; gc.get_objects()", "__builtins__['exec'] = 1",
])
def test_programs_that_name_ways_to_their_judge_are_wrong(program):
    assert verify("code", program, "", {"tests": [""]}).outcome == "wrong"


@linux
def test_gold_programs_of_real_rows_pass_and_other_rows_programs_do_not():
    rows = [row for row in ROWS if KINDS[row["answer_type"]] == "code"]
    for row, other in zip(rows, rows[1:] + rows[:1]):
        assert verify("code", said(row), "", facts_of(row)).outcome == "right", row["prompt"]
        assert verify("code", said(other), "", facts_of(row)).outcome == "wrong"
    row = rows[0]  # a whole function in place of a body
    assert verify("code", f"```python\n{row['prompt']}{row['answer']}\n```", "", facts_of(row)).outcome == "right"


@pytest.mark.parametrize("message,found", [
    ("Answer: B", "B"), ("answer B", "B"), ("The answer is 7.", "7"), ("**Answer:** 7", "7"), ("Answer: **7**", "7"),
    ("The final answer is: 18.", "18"), ("**Final Answer**: 18", "18"), ("**Answer**: `18`.", "18"), ("Answer:\n\\[ 7 \\]", "7"),
    ("Answer: 18\nI hope this answer helps!", "18"), ("Answer: B\n\nThis answers the question.", "B"),
    ("so\n#### 1,002", "1,002"),
    ("Answer: $\\frac{1}{2}$", "\\frac{1}{2}"), ("so \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"), ("Answer: \\boxed{3}", "3"),
    ("\\boxed{\\text{B}}", "B"), ("Answer: \\boxed{\\textbf{(B)}}", "(B)"), ("It is \"Yes\".\nAnswer: \"Yes\"", "Yes"),
    ("Answer: 1\nAnswer: 2", "2"), ("Answer: 1\n\\boxed{2}", "2"), ("\\boxed{1}\nAnswer: 2", "2"), ("no word of it", ""),
    ("\\boxed{A} or \\boxed{B}", ""), ("Answer: \\boxed{A}, \\boxed{B}", "\\boxed{A}, \\boxed{B}"),
    ("\\boxed{7}\nso again \\boxed{8}", "8"),
    ("Answer:", ""), ("\\boxed{1", ""), ("reanswer 3", ""), (None, ""), (7, ""),
    ("Answer: 3" + " " * 10**6, ""), ("Answer: $18", "$18"), ("Answer: " + "7 " * 3000, ""),
])
def test_the_last_line_that_names_the_answer_counts(message, found):
    assert final_answer(message) == found


RIGHT = [
    ("number", "1234.5", "Answer: 1,234.50"), ("number", "18", "Answer: $18.00"), ("number", "0.5", "Answer: 1/2"),
    ("number", "-3", "Answer: −3"), ("number", "50%", "Answer: 50%"), ("choice", "B", "Answer: (B)"),
    ("choice", "B", "answer b."),
    ("choice", "B", "Answer: B) the second"), ("text", "Yes", "Answer: yes"), ("text", "a b", "Answer: a  b"),
    ("game24", "", "Answer: (6 - 1) * 4 + 4 = 24"), ("game24", "", "Answer: 4 × (1 + 6) - 4"),
    ("game24", "", "24 = 4 \\times [6 - 1] + 4 is it. Answer: $24 = 4 \\times \\left(6 - 1\\right) + 4$"),
    ("game24", "", "\\boxed{4 \\cdot (6 - 1) + 4 = 24}"), ("number", "18", "Answer: 18 dollars"),
    ("number", "18", "Answer: \\$18"),
    ("number", "0.5", "Answer: .5"), ("number", "0.75", "Answer: \\frac{3}{4}"), ("number", "-5", "Answer: -$5"),
    ("number", "1234", "Answer: \\(1{,}234\\)"), ("number", "50%", "Answer: 50\\%"), ("choice", "B", "Answer: [B]"),
    ("choice", "B", "Answer: Option B"), ("choice", "B", "Answer: **B**) the second"), ("choice", "B", "Answer: B - the second"),
    ("text", "(B)", "Answer: B"), ("text", "Yes", "\\boxed{\\text{Yes}}"),
]
WRONG = [
    ("number", "7", "Answer: 7 or 8"), ("number", "7", "Answer: 6, 7, 8"), ("number", "7", "Answer: between 6 and 7"),
    ("number", "7", "Answer: nan"), ("number", "7", "Answer: 9**9**9"), ("number", "7", "Answer: 7\x00"),
    ("number", "7", "Answer: inf"),
    ("number", "7", "Answer: 7e0"), ("number", "7", "Answer: ７"), ("number", "7", "Answer: " + "7" * 100), ("number", "7", "7"),
    ("number", "7", "Answer: 7" + "0" * 10**6), ("number", "50", "Answer: 50%"),
    ("choice", "B", "Answer: A or B"), ("choice", "B", "Answer: A, B, C, D"), ("choice", "B", "Answer: not A"),
    ("choice", "B", "B"),
    ("choice", "B", "Answer: B) the first"), ("choice", "B", "Answer: AB"), ("choice", "B", "Answer: C) the second"),
    ("text", "Yes", "Answer: Yes and No"), ("text", "Yes", "Answer: Yes\x00"), ("text", "nan", "Answer: NaN or not"),
    ("choice", "B", "Answer: not \\boxed{B} but A"), ("choice", "B", "Answer: 1 \\boxed{B} or A"),
    ("choice", "B", "\\boxed{B:" + " " * 19_000 + "x\ny}"), ("choice", "B", "\\boxed{B:" + "\t" * 19_000 + "x}"),
    ("game24", "", "Answer: 1" + " " * 19_000 + "x"), ("number", "7", "Answer: 7 or so"), ("number", "7", "Answer: 6 to 7"),
    ("text", "(B)", "Answer: (A) or (B)"), ("game24", "", "Answer: 24"), ("game24", "", "Answer: 4 * 6"),
    ("game24", "", "Answer: 4 * 6 * 1 * 1"),
    ("game24", "", "Answer: 9**9**9"), ("game24", "", "Answer: (6 - 1) * 4 + 4 or 24"), ("game24", "", "Answer: 1 / 0"),
    ("game24", "", "Answer: " + "(" * 150), ("game24", "", "Answer: __import__('os')"),
    ("game24", "", "Answer: -1 + 4 * 6 + 4 - 3"),
    ("game24", "", "Answer: 1446"), ("game24", "", "Answer: 6 * 4 * 1 + 4 - 4"),
]
FACTS = {"choice": {"options": ("the first", "the second", "the third")}, "game24": {"numbers": [1, 4, 4, 6]}}


@pytest.mark.parametrize("kind,answer,message", RIGHT)
def test_ways_of_saying_it_right(kind, answer, message):
    assert verify(kind, message, answer, FACTS.get(kind)).outcome == "right"


@pytest.mark.parametrize("kind,answer,message", WRONG)
def test_tricks_are_worth_nothing_in_bounded_time(kind, answer, message):
    started = time.process_time()
    assert verify(kind, message, answer, FACTS.get(kind)).reward == 0
    assert time.process_time() - started < 5


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=60), st.none(), st.integers(), st.binary(), st.lists(st.text())),
       st.sampled_from(["text", "number", "choice", "game24"]))
def test_nothing_raises(message, kind):
    for said in (message, f"Answer: {message}"):
        assert verify(kind, said, "7", FACTS.get(kind)).outcome in ("right", "wrong", "malformed")


@given(st.recursive(st.integers(0, 50).map(str), lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(
    lambda parts: f"({' '.join(parts)})"), max_leaves=6))
def test_expressions_have_the_value_that_python_gives_them(text):
    parts = text.replace("(", " ( ").replace(")", " ) ").split()
    try:
        wanted = eval("".join(f"F({part})" if part.isdigit() else part for part in parts), {"F": Fraction})
    except ZeroDivisionError:
        wanted = None
    found = evaluate(text)
    assert (found and found[0]) == wanted


def test_an_unknown_verifier_is_named():
    with pytest.raises(ValueError, match="'regex'.*text, number, choice"):
        verify("regex", "x", "y")


ESCAPES = {  # what must be refused with PermissionError (or the like) inside the cage
    "a socket": "import socket; socket.socket()",
    "a fork": "import os; os.fork()",
    "a program": "import subprocess; subprocess.run(['true'])",
    "a shell by the C library": "import ctypes; assert ctypes.CDLL(None).system(b'true') not in (0, 256); raise OSError",
    "a file outside": f"open({str(pathlib.Path(__file__))!r}).read()",
    "the passwords": "open('/etc/passwd').read()",
    "the environment of others": "open('/proc/1/environ').read()",
    "a list of the root": "import os; os.listdir('/')",
    "writing outside": "open('/tmp/caged_evil', 'w')",
    "writing where it stands": "open('f', 'w')",
    "emptying a file": "import os; os.truncate('/tmp', 0)",
    "changing a file's mode": "import os; os.chmod('/tmp', 0o777)",
    "changing a file's time": "import os; os.utime('/tmp')",
    "slowing its judge": "import os; os.sched_setscheduler(os.getppid(), os.SCHED_IDLE, os.sched_param(0))",
    "a signal in a queue": "import ctypes, os; r = ctypes.CDLL(None, use_errno=True).syscall(297, 1, 1, 0, 0); "
                           "assert r == -1 and ctypes.get_errno() == 1; raise OSError",
    "the name of the machine": "import socket; socket.sethostname('x')",
    "killing its judge": "import os; os.kill(os.getppid(), 9)",
    "a larger limit": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (999, 999))",
    "much memory": "bytearray(2**31)",
    "mounting": "import ctypes, os; r = ctypes.CDLL(None, use_errno=True).mount(b'x', b'/', b'tmpfs', 0, None); raise OSError(r)",
}


@linux
@pytest.mark.parametrize("name", ESCAPES)
def test_no_way_out_of_the_cage(name):
    """The attempt raises what the kernel answers, and the program lives to say so: it was refused, not merely broken."""
    attempt = "\n".join(f"    {line}" for line in ESCAPES[name].split("; "))
    refused = f"try:\n{attempt}\nexcept (OSError, MemoryError, ValueError):\n    refused = True"
    assert run_caged([refused, "assert refused"], seconds=20)
    assert not pathlib.Path("/tmp/caged_evil").exists()


@linux
@pytest.mark.parametrize("program", [
    "import sys; sys.exit(0)", "import os; os._exit(0)", "raise SystemExit", "raise KeyboardInterrupt", "def f(:", "x = '\0'",
    "import os\nfor fd in range(1, 20):\n  try: os.write(fd, b'0' * 32)\n  except OSError: pass\nos._exit(0)",
    "def f(): return f()\nf()", "import os; assert os.environ.get('HOME')", "input()",
    "quit()", "import ctypes; ctypes.string_at(0)", "import os; os.write(3, b'no: uncaged'); os._exit(3)",
    "import builtins; builtins.exec = lambda *a: None; raise SystemExit",
    "import os\nwhile True: os.write(3, bytes(2**20))",
])
def test_programs_that_end_otherwise_are_wrong(program):
    assert not run_caged([program, ""], seconds=20)


@linux
def test_time_in_the_cage_ends():
    for program in ("while True: pass", "import time; time.sleep(60)", "import threading\nthreading.Event().wait()"):
        started = time.monotonic()
        assert not run_caged([program], seconds=1.0)
        assert time.monotonic() - started < 30


@linux
def test_honest_programs_have_what_they_need():
    check_cage()
    assert run_caged(["import math, re, heapq, hashlib, random, decimal, datetime, threading, collections, itertools, typing",
                      "assert hashlib.md5(b'x').hexdigest() and open('/dev/urandom', 'rb').read(1)",
                      "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int' = 1", "assert A().x == 1",
                      "thread = threading.Thread(target=print, args=('seen by nobody',)); thread.start(); thread.join()"],
                     seconds=20)


def test_latex_is_compared_as_mathematics_and_bounded_by_the_judge():
    pytest.importorskip("math_verify", reason="math-verify is not installed; the extra `math` brings it")
    cases = [("\\frac{1}{2}", "Answer: 0.5", 1), ("x^2+1", "Answer: $1 + x^2$", 1), ("(1,2)", "Answer: (2,1)", 0),
             ("5", "Answer: 5 or 6", 0), ("7", "Answer: nan", 0), ("7", None, 0), ("5", "Answer: $x = 5$", 1),
             *(("7", f"Answer: {text}", 0)
               for text in ("\\neq 7", "\\ge 7", "\\approx 7", "8 = 7", "5 $ 7", "7\\%", "\\cancel{8} 7")),
             ("(1,2)", "Answer: \\{1,2\\}", 0), ("\\frac{1}{3}", "Answer: 0.333333", 0), ("x \\ge 7", "Answer: x \\ge 7", 1)]
    with Judge(workers=1, limit=60.0) as judge:
        futures = [judge.submit("latex", message, answer) for answer, message, _ in cases]
        assert [future.result().reward for future in futures] == [reward for *_, reward in cases]


def test_the_judge_gives_verdicts_and_outlives_what_hangs_or_dies(monkeypatch):
    with Judge(workers=2, limit=30.0) as judge:
        futures = [judge.submit(kind, message, answer, FACTS.get(kind)) for kind, answer, message in RIGHT]
        assert [future.result().outcome for future in futures] == ["right"] * len(RIGHT)
        with pytest.raises(RuntimeError, match="unknown verifier 'regex'"):
            judge.submit("regex", "x", "y").result()
        assert judge.submit("number", b"bytes", "7").result().outcome == "malformed"
        assert judge.submit("text", "Answer: \ud800", "\ud800").result().reward in (0.0, 1.0)


@linux
def test_a_verifier_that_takes_too_long_costs_its_own_message_alone():
    slow = {"tests": ["import time; time.sleep(30)"], "seconds": 20.0}
    with Judge(workers=1, limit=2.0) as judge:
        late = judge.submit("code", "x = 1", "", slow)
        after = judge.submit("number", "Answer: 7", "7")
        assert late.result().outcome == "timeout" and late.result().reward == 0
        time.sleep(0.2)
        left = [path for path in pathlib.Path("/proc").glob("[0-9]*/cmdline") if b"caged.py" in _command(path)]
        assert not left
        assert after.result().outcome == "right"


def _command(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_every_verifier_is_documented():
    assert all(function.__doc__ for function in VERIFIERS.values())

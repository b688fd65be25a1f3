"""Tasks of the library reasoning-gym (extra `reasoning`), as generated families: `make_task("reasoning_gym", name="chain_sum")`.

Depth is a level of the library's own curriculum. Only tasks on the list below are admitted: each repeats itself for the same
seed in another process, is drawn in less than a millisecond, and has one right answer, which a verifier of this project compares.
The library's own scorers are not asked: they pay for naming several answers, and some raise, hang or say yes to anything
(`9**9**9`, `nan`).
"""

import functools
import importlib.util
import random

from neuromas_jax.tasks.types import Question, Task

ALLOWED = {  # task -> verifier
    "aiw": "number", "base_conversion": "text", "basic_arithmetic": "number", "binary_alternation": "number",
    "bitwise_arithmetic": "text", "chain_sum": "number", "circuit_logic": "number", "color_cube_rotation": "text",
    "count_bits": "number", "decimal_chain_sum": "number", "family_relationships": "text", "gcd": "number",
    "largest_island": "number", "lcm": "number", "leg_counting": "number", "letter_counting": "number",
    "needle_haystack": "text", "number_filtering": "text", "products": "number", "simple_equations": "number",
    "spell_backward": "text", "syllogism": "text", "word_sequence_reversal": "text", "word_sorting": "text",
}
SAMPLE = 200  # questions that tell how many answers there are


def make(
    name: str, depths: tuple[int, ...] = (1, 2), weights: tuple[float, ...] = (1.0, 1.0), held_out_depth: int = 3
) -> Task:
    """A task of reasoning-gym as a family.

    Args:
      name: of `ALLOWED`.
      depths, weights: levels of the library's curriculum, 1 the easiest, and how often each is drawn.
      held_out_depth: a level that is never trained on.

    Raises:
      ValueError: a task that is not allowed, a level that it has not, or the library is not installed.
    """
    if name not in ALLOWED:
        raise ValueError(f"unknown or unsafe task {name!r} of reasoning-gym; allowed: {', '.join(ALLOWED)}")
    if importlib.util.find_spec("reasoning_gym") is None:
        raise ValueError("task 'reasoning_gym' needs the library: pip install neuromas_jax[reasoning]")
    from reasoning_gym.factory import create_curriculum, create_dataset

    levels = max(len(attribute.levels) for attribute in create_curriculum(name).attributes.values())

    @functools.cache
    def options(depth: int) -> dict:
        curriculum = create_curriculum(name)
        for _ in range(depth - 1):
            curriculum.increment_global_level()
        found = vars(curriculum.generate_configuration())
        return {key: value for key, value in found.items() if key not in ("seed", "size")}

    def draw(rng: random.Random, depth: int) -> Question:
        item = create_dataset(name, size=1, seed=rng.randrange(2**31), **options(depth))[0]
        return Question(item["question"].strip(), str(item["answer"]).strip(), depth)

    found = {draw(random.Random(number), depths[0]).answer for number in range(SAMPLE)} if depths else set()
    return Task(f"gym_{name}", tuple(depths), tuple(weights), held_out_depth, (1, levels), 1 / max(len(found), 1), False, draw,
                lambda question: question, verifier=ALLOWED[name])

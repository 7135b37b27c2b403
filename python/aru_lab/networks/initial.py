"""Names and values of what networks start from, without torch: the command line lists and checks them."""

from __future__ import annotations

from aru_lab.arguments import FLOAT32_MAX
from aru_lab.errors import ConfigError

BIASES = ("zero", "torch")
LSTM_WEIGHTS = ("torch", "xavier")
NORMAL, SHARED = "normal", "shared"
# Words that stand for random initial values, for each of the options that take values.
WORDS: dict[str, tuple[str, ...]] = {"initial_gain": (NORMAL, SHARED), "initial_saturation": ()}


def values_of(text: str) -> tuple[float, ...]:
    """The numbers in a text such as "5" or "5,4.5,6".

    Raises:
        ValueError: it holds something else, or a number that float32 can't hold.
    """
    values = tuple(float(item) for item in text.split(","))
    if not all(abs(value) <= FLOAT32_MAX for value in values):
        raise ValueError("a number is not finite within float32")
    return values


def check_initial(name: str, value: object) -> str:
    """The initial values of n or s as a text; a number becomes one.

    Args:
        name: of the option, a key of WORDS.
        value: what the user passed.

    Raises:
        ConfigError: it is neither one of the option's words nor numbers with commas between, or a gain is 0.

    Examples:
        >>> check_initial("initial_gain", 1.25), check_initial("initial_gain", "shared")
        ('1.25', 'shared')
    """
    words = WORDS[name]
    text = str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
    if isinstance(text, str):
        if text in words:
            return text
        try:
            values = values_of(text)
        except ValueError:
            values = ()
        if values and (name != "initial_gain" or 0 not in values):
            return text
    expected = "".join(f"{word}, " for word in words) + ("or " if words else "")
    kind = "numbers other than 0" if name == "initial_gain" else "numbers"
    raise ConfigError(
        f"{name}: got {value!r}, expected {expected}finite {kind}: one for all neurons, or one for each with commas "
        "between."
    )

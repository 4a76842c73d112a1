"""Types of values that several keys share."""

import re

from distsent.job.keys import (
    UNPRINTABLE,
    ValueType,
    choice,
    either,
    integer,
    list_of,
    matching,
    number,
    parse_text,
    table_of,
)

text = matching(r".*\S.*", "text")
lines = ValueType(
    "text", lambda x: type(x) is str and not UNPRINTABLE.search(re.sub("[\n\t]", "", x)),
    parse=parse_text,
)  # fmt: skip
boolean = choice(True, False)
count = integer(">= 1")
position = integer(">= 0")
positive = number("> 0")
non_negative = number(">= 0")
fraction = number(">= 0", "< 1")
words = list_of(text, "a list of words")
by_class = table_of(text, "a table from classes, or from `text` and `label`, to paths")
files = either(text, either(list_of(text, "a list of paths"), by_class))
JOB_NAME = matching(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", "a name of letters, digits, . _ and -")
TRACKER = choice("mlflow", "wandb", "trackio")
SEED = integer(">= 0", "<= 4294967295")

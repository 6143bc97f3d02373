"""One colour a thing, in the terminal and on the page: speech is orange, text is blue, retention is green."""

SPEECH = "dark_orange"
TEXT = "dodger_blue2"
RETENTION = "sea_green3"
QUIET = "bright_black"

PAGE_SPEECH = "#d9631e"
PAGE_TEXT = "#2b6cb0"
PAGE_RETENTION = "#2f855a"
PAGE_TEACHER = "#4a4a4a"
PAGE_INK = "#1c1c1c"
PAGE_QUIET = "#767676"
PAGE_LINE = "#dddddd"

PAGE_OF = {"speech": PAGE_SPEECH, "text": PAGE_TEXT, "retention": PAGE_RETENTION}

STAGES = {
    "rollout": "#5b7fa6",
    "score": "#a8695a",
    "learn": "#6d9f71",
    "sync": "#c9a227",
    "wait": "#b9b9b9",
}
"""The stages of a step and their colours, in the order they happen."""

ENTRIES = (
    ("#b5175e", "o"),
    ("#0e8c8c", "s"),
    ("#b7890a", "^"),
    ("#6a4c93", "D"),
    ("#8a5a44", "v"),
    ("#5f7f1e", "P"),
    ("#3b4a54", "X"),
    ("#d4679a", "<"),
    ("#4f8fd0", ">"),
    ("#9a9a2b", "p"),
)
"""Colour and matplotlib mark of each entry of a comparison, the reference first; none is that of a modality."""

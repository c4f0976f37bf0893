"""What an agent says of its change, in the forms in which agents write it."""

import pytest

from autoresearch_jax.proposers.agent_files import Explanation, read_category, read_explanation

CATEGORIES = ("optimizer", "learning rate", "attention", "batch")


@pytest.mark.parametrize(
    "text",
    [
        "lower LR\ncategory: optimizer\n",
        "lower LR\r\n\r\nCategory: Optimizer (learning rate)\r\n",
        "# Hypothesis\n\nlower LR\n\n## Category\n\nOptimizer\n",
        "Hypothesis\n==========\n\nlower LR\n\nCategory: optimizer, batch\n",
        "**Hypothesis:** lower LR\n**Category:** **Optimizer**\n",
        "## Summary\n\n1. lower LR\n2. see\n\nCATEGORY = optimizer / schedule\n",
        "---\ntitle: lower LR\ndate: today\ncategory: optimizer\n---\n\nMore of it.\n",
        "```markdown\n# Hypothesis\n\nlower LR\n\nCategory: optimizer.\n```\n",
        "# Hypothesis for experiment 3\n\nlower LR\n\n_category_: optimizer\n",
        "## Experiment #3: lower LR\n\n## What I changed and why\n\nIt.\n\ncategory: optimizer\n",
        "<!-- a line\nor two -->\nlower LR\ncategory: optimizer\n",
        '{"hypothesis": "lower LR", "category": "Optimizer (learning rate)"}',
        '```json\n{\n  "hypothesis": "lower LR\\nand more",\n  "category": "optimizer"\n}\n```\n',
    ],
)
def test_the_first_line_that_says_something_and_the_category(text):
    assert read_explanation(text, CATEGORIES) == Explanation("lower LR", "optimizer")


@pytest.mark.parametrize(
    "text", ["", "\n\n---\n", "# Hypothesis\n", "```\n```\n", "{}", '{"hypothesis": 3}', "---\na: b\n---\n"]
)
def test_nothing_is_said(text):
    assert read_explanation(text, CATEGORIES) == Explanation()


@pytest.mark.parametrize(
    "text",
    [
        "lower LR\ncategory: batch\nwhy: it is\nsmoother\nused: one-two, three\n",
        "# lower LR\n\n## Why\n\nit is\nsmoother\n\n## Used findings\n\n- one-two,\n- three\n\n## Category\n\nbatch\n",
        "Category: batch\nUsed: one-two, three\nWhy: it is\nsmoother\nHypothesis: lower LR\nExpected gain: 1 %",
        "---\ntitle: lower LR\nwhy: it is smoother\nused: one-two, three\ncategory: batch\n---\nMore of it.\n",
        '{"hypothesis": "lower LR", "category": "batch", "why": "it is smoother", "used": "one-two, three"}',
    ],
)
def test_why_it_should_work_and_what_was_used(text):
    assert read_explanation(text, CATEGORIES) == Explanation("lower LR", "batch", "it is smoother", "one-two, three")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Why not lower LR", "Why not lower LR"),
        ("{not JSON", "{not JSON"),
        ("Change 3 layers to 4", "Change 3 layers to 4"),
        ("__init__ is shorter", "__init__ is shorter"),
        ("-3 dB", "-3 dB"),
    ],
)
def test_other_words_are_taken_as_they_are(text, words):
    assert read_explanation(text) == Explanation(words)


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("Learning  rate schedule", "learning rate"),
        ("optimizers", "optimizers"),
        ("a new kind, or another", "a new kind"),
        ("Depth (layers)", "depth"),
        ("  ", ""),
    ],
)
def test_a_category_in_more_words(text, category):
    assert read_category(text, CATEGORIES) == category

"""Prompts whose answers repeat much of what they were given, and prompts whose answers don't."""

DOCUMENTS = {
    "minutes": """Minutes of the garden committee, 14 March.
Present: Ruth Adeyemi (chair), Tomas Lindqvist, Priya Nair, Owen Hughes.
1. The water bill for the winter quarter was 312 pounds, 40 pounds more than last year. Tomas found a leaking tap
behind the tool shed and will replace it by 21 March.
2. The council has approved the second compost bay. Priya will order the timber from Hartley's yard; the budget is
180 pounds.
3. Eleven people are on the waiting list for a plot. Plots 7 and 19 have not been worked since September. Ruth will
write to both holders and give them until 30 April.
4. The spring open day is on Saturday 9 May, from 11 to 4. Owen will print the posters. Priya will ask the bakery on
Mill Lane for bread.
5. Next meeting: 11 April at 7 in the evening, in the library.""",
    "letter": """Dear Ms Okafor,
thank you for your order of 2 June. The walnut bookcase (item 4471, 890 euros) left our workshop in Ghent on Monday and
will reach you on Thursday 18 June between 9 and 12. The matching side table (item 4475, 240 euros) is delayed because
the supplier of the brass feet has closed for two weeks; we expect to send it on 6 July. You will not be charged for
its delivery. If you would rather have both pieces delivered together, please call Jan Peeters on 09 555 0142 before
Wednesday. The invoice, number 2026-0613, is enclosed. Please note that oiled walnut darkens in the first months;
keep it away from direct sun until then.
With kind regards,
Marieke Claes""",
    "article": """The harbour town of Vardvik has run its ferries on batteries for six years. When the first of them,
the Solvei, went into service in 2020, engineers expected its batteries to lose a fifth of their
capacity within five years. They lost eight per cent. The reason, says the operator's chief engineer
Ingrid Moe, is that the crossing is short: the ferry sails for 23 minutes, then charges for 11, and
its batteries are never emptied below 45 per cent. Electricity for one crossing costs 31 kroner; the
diesel that it replaced cost 212. The charging tower was the difficult part. In winter ice blocks
its arm, and during the first two years the crew had to free it by hand on 40 mornings. A heated
hood solved that in 2022. The town now has three electric ferries and plans a fourth for the longer
route to Holm in 2027, which will need a battery twice as large.""",
    "code": """def load_readings(path):
    readings = []
    with open(path) as file:
        for line in file:
            name, value, unit = line.strip().split(",")
            readings.append({"name": name, "value": float(value), "unit": unit})
    return readings


def mean_by_name(readings):
    totals = {}
    counts = {}
    for reading in readings:
        name = reading["name"]
        totals[name] = totals.get(name, 0.0) + reading["value"]
        counts[name] = counts.get(name, 0) + 1
    return {name: totals[name] / counts[name] for name in totals}


def warmest(readings):
    best = None
    for reading in readings:
        if best is None or reading["value"] > best["value"]:
            best = reading
    return best""",
}

GROUNDED = {
    "summarize": [
        "Summarize this text, keeping its names, dates and figures:\n\n{minutes}",
        "Summarize this text, keeping its names, dates and figures:\n\n{letter}",
        "Summarize this text in a few sentences:\n\n{article}",
    ],
    "edit": [
        "Write this letter again, with the name Ms Okafor changed to Mr Brandt, and nothing else changed:\n\n{letter}",
        "Correct any spelling mistakes in this text and give back the whole text:\n\n{article}",
        "Write this code again with `readings` renamed to `samples`:\n\n```python\n{code}\n```",
        "Add a docstring to every function of this code and give back the whole code:\n\n```python\n{code}\n```",
    ],
    "extract": [
        "List every task of these minutes with the person who does it:\n\n{minutes}",
        "List every date and amount of money in this letter, with the sentence in which it stands:\n\n{letter}",
        "Quote the sentences of this article that contain a number:\n\n{article}",
    ],
}

FREE = [
    "Tell me a story about a lighthouse keeper who learns to sail.",
    "Why is the sky blue? Explain it to a child.",
    "Write a poem about an old railway station.",
    "What should I consider before I buy a used bicycle?",
    "Describe a day in the life of a baker in a small town.",
    "How do bees find their way home?",
]


def grounded(kind: str) -> list[str]:
    """Return the prompts of a kind of GROUNDED with their documents in place."""
    prompts = []
    for template in GROUNDED[kind]:
        for name, text in DOCUMENTS.items():
            template = template.replace("{" + name + "}", text)
        prompts.append(template)
    return prompts

# %% [markdown]
# # From answers to a reward, over the API
#
# The cells of this file are run in turn: by Jupyter, by an editor that knows `# %%`, or all at once by
# `python docs/examples/loop.py`. They need a project of which you are an admin, a token of yours with the scopes read,
# write and train, and a reward server that follows the project. docs/client.md says how to start each.

# %%
import json
import os
import tempfile
from pathlib import Path

from caliper import Client, RewardServer

client = Client(os.environ["CALIPER_URL"], os.environ["CALIPER_TOKEN"])
project = client.project(os.environ.get("CALIPER_PROJECT", "rivers"))
print("I am", client.me()["username"])

# %% [markdown]
# ## Import
# Two answers to each question, in Caliper's own format. An import is previewed first, and written when it is confirmed.

# %%
FACTS = {
    "Danube": ("the Black Sea", 2850),
    "Rhine": ("the North Sea", 1230),
    "Elbe": ("the North Sea", 1094),
    "Loire": ("the Atlantic", 1006),
    "Po": ("the Adriatic Sea", 652),
    "Ebro": ("the Mediterranean Sea", 930),
    "Douro": ("the Atlantic", 897),
    "Oder": ("the Baltic Sea", 840),
    "Rhone": ("the Mediterranean Sea", 813),
    "Vistula": ("the Baltic Sea", 1047),
    "Thames": ("the North Sea", 346),
    "Tiber": ("the Tyrrhenian Sea", 406),
}
lines = []
for river, (sea, length) in FACTS.items():
    lines += [
        {"type": "prompt", "id": river, "text": f"Where does the {river} end, and how long is it?"},
        {
            "type": "response",
            "id": f"{river}-full",
            "prompt": river,
            "text": f"The {river} ends in {sea}. It is {length} km long.",
            "author": "full",
        },
        {
            "type": "response",
            "id": f"{river}-vague",
            "prompt": river,
            "text": "It is hard to say. Rivers end somewhere, and they are long.",
            "author": "vague",
        },
        {"type": "pair", "a": f"{river}-full", "b": f"{river}-vague"},
    ]
file = Path(tempfile.mkdtemp()) / "rivers.jsonl"
file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
preview = project.imports.wait(project.imports.upload([file])["id"])
print({kind: counts["new"] for kind, counts in preview["report"]["counts"].items()})
project.imports.confirm(preview["id"])
imported = project.imports.wait(preview["id"])
assert imported["state"] == "done", imported["error"]

# %% [markdown]
# ## Label
# A front end of your own asks for cards and sends answers. This one has no person: it likes answers with a number.
# A card shows the two answers left and right, and says nothing about who wrote them.

# %%
while cards := project.cards.next(5)["cards"]:
    for card in cards:
        assert card["left"] is not None
        left = any(letter.isdigit() for letter in card["left"]["text"])
        levels = {"left": "good" if left else "bad", "right": "bad" if left else "good"}
        project.cards.answer(
            card,
            "left" if left else "right",
            levels=levels if card["asks"]["levels_needed"] else None,
        )
print(len(list(project.judgements.list())), "judgements")

# %% [markdown]
# ## Train
# A run takes a snapshot of the labels and trains on it. The version that it makes serves once it has passed the
# project's gate, or because you say so.

# %%
run = project.runs.start("bt", epochs=3)
run = project.runs.wait(run["id"], lambda run: print(run["phase"], run["percent"], "%"))
assert run["version"], run["error"]
version = project.versions.get(run["version"])
print(version["name"], version["gate_reason"])
if not version["is_serving"]:
    version = project.versions.promote(version["id"])

# %% [markdown]
# ## Score
# The reward server takes the version over by itself. Until it has, it says so, and the client waits.

# %%
question = "Where does the Seine end, and how long is it?"
with RewardServer(os.environ.get("CALIPER_SERVER", "http://127.0.0.1:8100")) as server:
    full, vague = server.score(
        [
            {"prompt": question, "text": "The Seine ends in the English Channel. It is 777 km long."},
            {"prompt": question, "text": "It is hard to say. Rivers end somewhere, and they are long."},
        ]
    )
    print(f"{full['score']:.2f} against {vague['score']:.2f}, by {server.version}")

# %% [markdown]
# ## Export
# The labels as a preference data set for other trainers; and the model's own files, with their checksums.

# %%
exported = file.with_name("preferences.jsonl")
project.exports.write("trl-explicit", exported)
rows = [json.loads(line) for line in exported.read_text(encoding="utf-8").splitlines()]
print(len(rows), "pairs;", rows[0]["chosen"])
model = project.versions.download(version["id"], file.with_name("model"))
print(sorted(path.name for path in model.iterdir()))

"""A good row of every schema, or several: what cleaning keeps whole, with every key read."""

import json

FIELDS = (
    "Evaluation of Student Response",
    "Action Based on Evaluation",
    "Subproblem State",
    "Subproblem",
    "Tutorbot",
)
REPLY = json.dumps(dict(zip(FIELDS, ("g", "12", "w", "What?", "Say more."), strict=True)))

FIRST, SECOND = (REPLY.replace('"12"', f'"{action}"') for action in "12")


def talk(*texts, role="role", text="content", names=("user", "assistant")):
    return [{role: names[place % 2], text: words} for place, words in enumerate(texts)]


def shared(*texts):
    return talk(*texts, role="from", text="value", names=("human", "gpt"))


ALPACA = {
    "instruction": "Why?",
    "input": "it",
    "output": "So.",
    "system": "Be.",
    "history": [["Hm?", "Well."]],
}
HH = {"prefix": [["<|prompter|>Why?", "<|assistant|>"]] * 2, "suffix": ["Yes.", "No."], "reward": [1.5, -0.5]}
TREE = {"role": "prompter", "text": "Why?", "replies": [{"role": "assistant", "text": "So.", "replies": []}]}
STEP = dict.fromkeys(("Question", "Answer", "Hint", "Incorrect Response", "Feedback"), "So.")
PROBLEM = {"Problem": "Why?", "SubProblems": [STEP, STEP], "Facts": ["It is."], "Solution": "So."}
CLASS = {"section_name": "Cells", "section_learning_objs": "Name them.\n", "section_id": "1.1"}
GOOD = {
    "tutorbot": [{"conversations": shared("Student: Q. Why?", REPLY, "Hm.", REPLY)}],
    "tutorbot_pairs": [
        {"conversations": [*shared("Student: Q. Why?", REPLY, "Hm.", FIRST), shared("", SECOND)[1]]}
    ],
    "tutorbot_raw_pairs": [
        {"conversations": [*shared("Student: Q. Why?", REPLY, "Hm.", FIRST), shared("", SECOND)[1]]}
    ],
    "messages": [{"messages": [{"role": "system", "content": "Be."}, *talk("Why?", "So.", "And?", "Then.")]}],
    "prompt_completion": [
        {"prompt": "Why?", "completion": "So."},
        {"prompt": talk("Why?"), "completion": "So."},
        {
            "prompt": "Add.",
            "completion": "def f(): return 2",
            "tests": ["assert f() == ONE + 1"],
            "test_setup": "ONE = 1",
        },
    ],
    "super_ni": [{"Definition": ["Add."], "Instances": [{"input": "1", "output": ["2"]}]}],
    "cot": [{"inputs": "Why?", "targets": "So."}],
    "flan_v2": [{"inputs": "Why?", "targets": "So."}],
    "text": [{"text": "Roots take up water.\n\nLeaves lose it.", "dataset": "own"}],
    "dolly": [{"instruction": "Why?", "context": "it", "response": "So."}],
    "self_instruct": [ALPACA],
    "unnatural_instructions": [
        {"instruction": "Add.", "instances": [{"input": "1", "constraints": "In words.", "output": "two"}]}
    ],
    "alpaca": [ALPACA],
    "sharegpt": [{"conversations": shared("Why?", "So."), "system": "Be."}],
    "baize": [{"input": "[|Human|] Why? [|AI|] So. [|Human|]"}],
    "oasst1": [{"message_tree_id": "t", "prompt": TREE}],
    "lima": [{"conversations": ["Why?", "So."]}],
    "wizardlm": [ALPACA, {"conversations": shared("Why?", "So.")}],
    "open_orca": [{"system_prompt": "Be.", "question": "Why?", "response": "So."}],
    "hard_coded": [{"Prompt": "Why?", "Output": "So."}],
    "science": [{"input": "Why?", "output": "So.", "dataset": "d"}],
    "hh": [HH],
    "rewarded": [
        {
            "prompt_or_input_text": "Knowledge: k<|endoftext|>Why?<|endoftext|>",
            "references": "So.<|endoftext|>",
            "meta_data": {"a": 1},
            "reward_components": {"depth": 0.5},
        }
    ],
    "reddit_comments": [{"parent_text": "Why?", "text": "So.", "score": 12, "parent_score": "3"}],
    "atomic": [{"head": "PersonX eats", "relation": "xWant", "tail": "to rest", "p_valid_model": 0.9}],
    "wizard_of_wikipedia": [
        {"knowledge": "Cats purr.", "history": ["Hi.", "Hello.", "Cats?"], "response": "They purr."},
    ],
    "faithdial": [
        {"utterances": [{"knowledge": "Cats purr.", "history": ["Cats?"], "response": "They purr."}]}
    ],
    "xsum": [{"document": "A long text. ", "target": "Short."}],
    "cnn_dailymail": [{"article": "A long text.", "highlights": "Short."}],
    "imdb": [{"text": "A good film that ends well", "label": 1}],
    "iwslt2017": [{"translation": {"en": "Why?", "de": "Warum?"}}],
    "daily_dialog": [
        {"dialog": ["A ?", "B .", "C ?", "D .", "E ?", "F ."], "act": [1] * 6, "emotion": [0] * 6}
    ],
    "common_gen": [{"concepts": ["dog", "run"], "target": "The dog runs."}],
    "preferences": [
        {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
        {
            "prompt": talk("Why?"),
            "chosen": talk("Why?", "So."),
            "rejected": talk("Why?", "No."),
            "score_chosen": 8.0,
            "score_rejected": 3,
        },
        {"chosen": "\n\nHuman: Why?\n\nAssistant: So.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."},
    ],
    "alpaca_preferences": [ALPACA | {"chosen": "So.", "rejected": "No."}],
    "sharegpt_preferences": [
        {"conversations": shared("Why?"), "chosen": shared("", "So.")[1], "rejected": shared("", "No.")[1]}
    ],
    "judged_pairs": [{"instruction": "Why?", "output_1": "So.", "output_2": "No.", "preference": 1}],
    "class_problems": [CLASS | {"problems": json.dumps(PROBLEM)}],
    "class_dialogues": [
        CLASS
        | {
            "problems": json.dumps(PROBLEM),
            "conversation": json.dumps([{"Student": "Q. Why?"} | json.loads(REPLY)] * 2),
        }
    ],
    "labelled": [{"prompt": "Why?", "completion": "So.", "label": True}, ALPACA | {"kto_tag": False}],
}

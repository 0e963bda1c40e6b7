"""Every schema's rows become the messages its source means, and a row that is not of its schema says why."""

import math

import pytest

from tests.raw_rows import fault_of, open_all, ranked, said, settings_of
from workflow_scripts.clean.reading import Fault, load_json
from workflow_scripts.clean.turns import ROLES, check_ranked, read_turns

USER, ASSISTANT = "user", "assistant"


EXCHANGE = [(USER, "Name a prime."), (ASSISTANT, "Seven.")]
WITH_INPUT = [(USER, "Name it.\n\nA cat."), (ASSISTANT, "Cat.")]
TALK = [*EXCHANGE, (USER, "Another."), (ASSISTANT, "Five.")]


@pytest.mark.parametrize(
    ("schema", "row", "wanted"),
    [
        ("prompt_completion", {"prompt": "Name a prime.", "completion": "Seven."}, EXCHANGE),
        (
            "super_ni",
            {"id": "t-1", "definition": "Name it.", "inputs": "A cat.", "targets": "Cat."},
            WITH_INPUT,
        ),
        ("cot", {"inputs": "Name a prime.", "targets": "Seven.", "task": "cot"}, EXCHANGE),
        ("flan_v2", {"inputs": "Name a prime.", "targets": "Seven."}, EXCHANGE),
        ("dolly", {"instruction": "Name a prime.", "context": "", "response": "Seven."}, EXCHANGE),
        ("dolly", {"instruction": "Name it.", "context": "A cat.", "response": "Cat."}, WITH_INPUT),
        ("self_instruct", {"instruction": "Name it.", "input": "A cat.", "output": "Cat."}, WITH_INPUT),
        ("alpaca", {"instruction": "Name a prime.", "input": "", "output": "Seven."}, EXCHANGE),
        ("alpaca", {"instruction": "Name it.", "input": "A cat.", "output": "Cat."}, WITH_INPUT),
        (
            "sharegpt",
            {
                "conversations": [
                    {"from": "human", "value": "Name a prime."},
                    {"from": "gpt", "value": "Seven."},
                    {"from": "user", "value": "Another."},
                    {"from": "chatgpt", "value": "Five."},
                ]
            },
            TALK,
        ),
        (
            "baize",
            {
                "topic": "primes",
                "input": "A talk of a human and an AI.\n[|Human|] Name a prime.\n[|AI|] Seven.\n"
                "[|Human|] Another.\n[|AI|] Five.\n[|Human|] ",
            },
            TALK,
        ),
        ("lima", {"conversations": ["Name a prime.", "Seven.", "Another.", "Five."], "source": "x"}, TALK),
        ("wizardlm", {"instruction": "Name a prime.", "output": "Seven."}, EXCHANGE),
        (
            "wizardlm",
            {
                "idx": "q1",
                "conversations": [
                    {"from": "human", "value": "Name a prime."},
                    {"from": "gpt", "value": "Seven."},
                ],
            },
            EXCHANGE,
        ),
        ("open_orca", {"system_prompt": "", "question": "Name a prime.", "response": "Seven."}, EXCHANGE),
        ("hard_coded", {"Prompt": "Name a prime.", "Output": "Seven."}, EXCHANGE),
        ("science", {"input": "Name a prime.", "output": "Seven.", "dataset": "sums"}, EXCHANGE),
    ],
)
def test_a_row_becomes_the_messages_its_source_means(schema, row, wanted):
    assert said(schema, row) == [wanted]


def test_the_input_stands_under_the_heading_it_is_given():
    row = {"instruction": "Name it.", "input": "A cat.", "output": "Cat."}
    ((asked, _),) = said("alpaca", row, input_heading="### Input:")
    assert asked == (USER, "Name it.\n\n### Input:\nA cat.")
    ((asked, _),) = said("alpaca", row | {"input": " "}, input_heading="### Input:")
    assert asked == (USER, "Name it.")


def test_an_orca_row_keeps_its_system_prompt_and_a_science_row_its_source():
    ((opened, _),) = open_all("open_orca", {"system_prompt": "Be brief.", "question": "Q?", "response": "A."})
    assert opened.system == "Be brief."
    ((opened, _),) = open_all("science", {"input": "Q?", "output": "A.", "dataset": "sums"})
    assert opened.meta == {"dataset": "sums"}


def test_what_is_told_of_a_row_in_another_type_is_not_read_and_is_counted():
    ((opened, _),) = open_all("science", {"input": "Q?", "output": "A.", "dataset": ["sums"]})
    assert (opened.meta, opened.unread) == ({}, {"dataset"})
    opened = ranked("hh", hh(meta="helpful"))
    assert (opened.meta, opened.unread) == ({}, {"meta"})


def message(role, text, *replies, **more):
    return {"role": role, "text": text, "replies": list(replies)} | more


def test_a_tree_becomes_all_its_paths_that_end_on_the_assistant():
    tree = {
        "message_tree_id": "t",
        "prompt": message(
            "prompter",
            "Q",
            message("assistant", "A1", message("prompter", "Q1", message("assistant", "A11"))),
            message("assistant", "A2", message("prompter", "no more")),
            message("assistant", "gone", deleted=True),
            message("assistant", "A3", message("prompter", "gone", deleted=True)),
        ),
    }
    opened = open_all("oasst1", tree)
    assert [fault and fault.reason for _, fault in opened] == [
        None,
        "path does not end on the assistant",
        None,
    ]
    texts = [[turn["text"] for turn in one.turns] for one, fault in opened if not fault]
    assert texts == [["Q", "A1", "Q1", "A11"], ["Q", "A3"]]
    tree["prompt"]["deleted"] = True
    assert [fault.reason for _, fault in open_all("oasst1", tree)] == ["no conversation in the row"]


def test_a_deep_tree_is_no_recursion():
    tree = message("assistant", "end")
    for depth in range(5001):
        tree = message(("prompter", "assistant")[depth % 2], str(depth), tree)
    ((opened, fault),) = open_all("oasst1", {"prompt": tree})
    assert fault is None and len(opened.turns) == 5002


def test_a_task_file_becomes_its_instances_with_the_first_right_answer():
    task = {
        "Definition": ["Add."],
        "Instances": [
            {"id": "a", "input": "1+1", "output": ["2", "two"]},
            {"id": "b", "input": "2+2", "output": ["4"]},
        ],
    }
    assert said("super_ni", task) == [
        [(USER, "Add.\n\n1+1"), (ASSISTANT, "2")],
        [(USER, "Add.\n\n2+2"), (ASSISTANT, "4")],
    ]


def test_constraints_stand_under_an_unnatural_instruction_unless_there_are_none():
    row = {
        "instruction": "Add.",
        "instances": [
            {"input": "1+1", "constraints": "In words.", "output": "two"},
            {"input": "2+2", "constraints": "None.", "output": "4"},
        ],
    }
    assert said("unnatural_instructions", row) == [
        [(USER, "Add.\nIn words.\n\n1+1"), (ASSISTANT, "two")],
        [(USER, "Add.\n\n2+2"), (ASSISTANT, "4")],
    ]
    row["instances"][0]["constraints"] = ["In words."]
    assert fault_of("unnatural_instructions", row) == "text is not a string"


@pytest.mark.parametrize(
    ("schema", "row", "reason"),
    [
        ("prompt_completion", {"prompt": "Q?"}, "missing field 'completion'"),
        ("dolly", {"instruction": 3, "response": "A."}, "text is not a string"),
        ("dolly", {"instruction": "Q?", "context": [1], "response": "A."}, "text is not a string"),
        ("lima", {"conversations": "text"}, "'conversations' is not a list"),
        ("sharegpt", {"conversations": [{"from": "bing", "value": "Hi."}]}, "speaker the source leaves out"),
        ("oasst1", {"prompt": [1]}, "'prompt' is not an object"),
        (
            "oasst1",
            {"prompt": {"role": "prompter", "text": "Q", "replies": [3]}},
            "replies are not a list of messages",
        ),
        ("super_ni", {"Definition": ["Add."], "Instances": []}, "no conversation in the row"),
        ("super_ni", {"Definition": ["Add."], "Instances": [{"input": "1+1"}]}, "missing field 'targets'"),
        ("unnatural_instructions", {"instruction": "Add."}, "missing field 'instances'"),
        ("open_orca", {"system_prompt": "\ud800", "question": "Q?", "response": "A."}, "lone surrogate"),
    ],
)
def test_a_row_that_is_not_of_its_format_says_why(schema, row, reason):
    assert fault_of(schema, row) == reason


# --- ranked rows -----------------------------------------------------------------------------------------------------


def hh(suffix=("Six minutes.", "No idea."), reward=(1.3, -0.8), **more):
    prefix = [
        "<|prompter|>How do I boil an egg?",
        "<|assistant|>Gladly. Hard?",
        "<|prompter|>Soft.",
        "<|assistant|>",
    ]
    return {
        "prefix": [prefix] * len(suffix),
        "suffix": list(suffix),
        "reward": list(reward),
        "sft_index": 0,
    } | more


def test_an_hh_row_is_one_prompt_with_its_replies_and_raw_logits_the_preferred_one_first():
    opened = ranked("hh", hh(meta={"task": "helpful", "line_num": 3}))
    assert [(turn["role"], turn["content"]) for turn in opened.turns] == [
        (USER, "How do I boil an egg?"),
        (ASSISTANT, "Gladly. Hard?"),
        (USER, "Soft."),
    ]
    assert opened.candidates == [
        {"content": "Six minutes.", "rewards": {"rm": 1.3}},
        {"content": "No idea.", "rewards": {"rm": -0.8}},
    ]
    assert opened.meta == {"task": "helpful", "line_num": 3}
    assert ranked("hh", hh(sft_index=1)).candidates[0] == {"content": "No idea.", "rewards": {"rm": -0.8}}


def test_a_prefix_in_one_piece_is_read_like_one_in_many():
    row = hh()
    row["prefix"] = [["".join(pieces)] for pieces in row["prefix"]]
    assert ranked("hh", row).turns == ranked("hh", hh()).turns


def test_a_reply_that_ends_on_a_colon_rejects_its_row_only_if_asked():
    row = hh(suffix=("Six minutes.", "Here is how:"))
    assert ranked("hh", row).candidates[1]["content"] == "Here is how:"
    assert fault_of("hh", row, reject_colon=True) == "reply ends on a colon"
    assert ranked("hh", hh(suffix=("Six: minutes.", "No.")), reject_colon=True)


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf, None, "1.0", True, 10**400, [1.0]])
def test_a_reward_that_is_no_finite_number_rejects_its_row(reward):
    assert fault_of("hh", hh(reward=(reward, 0.5))) == "reward is not a finite number"
    row = {"prompt_or_input_text": "Q", "references": "A", "reward_components": {"depth": reward}}
    assert fault_of("rewarded", row) == "reward is not a finite number"


def test_a_missing_reward_rejects_its_row():
    row = hh()
    del row["reward"]
    assert fault_of("hh", row) == "reward is not a finite number"


@pytest.mark.parametrize(
    "more", [{}, {"reward_components": None}, {"reward_components": {"final_reward": 1.0}}]
)
def test_a_small_task_row_may_leave_its_rewards_to_the_annotation(more):
    opened = ranked("rewarded", {"prompt_or_input_text": "Q", "references": "A"} | more)
    assert opened.candidates == [{"content": "A", "rewards": {}}]


def test_reward_components_that_are_none_reject_their_row():
    row = {"prompt_or_input_text": "Q", "references": "A", "reward_components": "high"}
    assert fault_of("rewarded", row) == "reward is not a finite number"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (hh(reward=(1.0,)), "not one reward per candidate"),
        (hh(suffix=("One.",), reward=(1.0,)), "fewer than 2 candidates"),
        (hh(sft_index=2), "'sft_index' names no candidate"),
        (
            hh(prefix=[["<|prompter|>A<|assistant|>"], ["<|prompter|>B<|assistant|>"]]),
            "candidates do not share one prompt",
        ),
        (hh(prefix=[["<|prompter|>A"]] * 2), "prompt is not marked as one"),
        (hh(prefix=[["Hi <|prompter|>A<|assistant|>"]] * 2), "prompt is not marked as one"),
        (hh(prefix=[["A"]] * 2), "prompt is not marked as one"),
        (hh(prefix=[[1]] * 2), "text is not a string"),
        (hh(meta={"path": "\ud800"}), "lone surrogate"),
    ],
)
def test_an_hh_row_that_is_not_one_says_why(row, reason):
    assert fault_of("hh", row) == reason


def test_a_prompt_must_lead_up_to_a_reply():
    twice = [{"role": "user", "content": "A"}, {"role": "user", "content": "B"}]
    replies = [{"content": "C", "rewards": {}}]
    rules = settings_of("hh")
    assert check_ranked(None, twice, replies, rules).reason == "roles do not alternate"
    assert check_ranked(None, [], replies, rules) == Fault("no prompt")
    assert check_ranked(None, twice[:1], [{"content": " ", "rewards": {}}], rules).reason == "empty message"
    assert (
        check_ranked(None, twice[:1], replies, rules | {"min_messages": 3}).reason == "fewer than 3 messages"
    )


EOS = "<|endoftext|>"


def rewarded(text, reply="It is so.", **components):
    rewards = components or {"fluency": 0.9, "depth": 0.4}
    return {
        "id": 4,
        "prompt_or_input_text": text,
        "references": f"{reply}{EOS}",
        "meta_data": {"score": 7, "odd": math.nan},
        "reward_components": rewards | {"final_reward": sum(rewards.values())},
    }


def test_a_small_task_row_has_one_candidate_with_its_own_rewards_and_no_sum():
    opened = ranked("rewarded", rewarded(f"What is it?{EOS}"))
    assert opened.turns == [{"role": USER, "content": "What is it?"}] and opened.system is None
    assert opened.candidates == [{"content": "It is so.", "rewards": {"fluency": 0.9, "depth": 0.4}}]
    assert opened.meta == {"meta_data": {"score": 7, "odd": None}}
    comet = ranked("rewarded", rewarded("<head> PersonX eats </head> <relation> xWant </relation> [GEN] "))
    assert comet.turns[0]["content"] == "<head> PersonX eats </head> <relation> xWant </relation> [GEN] "


@pytest.mark.parametrize(
    ("history", "roles"),
    [
        (["Hi."], [USER]),
        (["Hi.", "Hello."], [ASSISTANT, USER]),
        (["Hi.", "Yes?", "So?"], [USER, ASSISTANT, USER]),
    ],
)
def test_knowledge_is_the_system_message_and_the_talk_ends_on_the_user(history, roles):
    opened = ranked("rewarded", rewarded(f"Knowledge: Cats purr.{EOS}{EOS.join(history)}{EOS}"))
    assert opened.system == "Knowledge: Cats purr." and opened.meta["knowledge"] == "Cats purr."
    assert [(turn["role"], turn["content"]) for turn in opened.turns] == list(
        zip(roles, history, strict=True)
    )


def test_a_comment_that_speaks_of_knowledge_is_no_knowledge():
    opened = ranked("rewarded", rewarded(f"Knowledge: is it power?{EOS}"))
    assert opened.system is None and "knowledge" not in opened.meta


def test_a_preference_row_ranks_chosen_before_rejected_and_needs_them_to_differ():
    row = {
        "instruction": "Name it.",
        "input": "A cat.",
        "output": "Cat.",
        "chosen": "Cat.",
        "rejected": "Cat, fool.",
    }
    opened = ranked("alpaca_preferences", row)
    assert opened.turns == [{"role": USER, "content": "Name it.\n\nA cat."}]
    assert opened.candidates == [{"content": "Cat.", "rewards": {}}, {"content": "Cat, fool.", "rewards": {}}]
    assert fault_of("alpaca_preferences", row | {"rejected": "Cat."}) == "chosen equals rejected"


def test_every_style_of_turn_maps_onto_user_and_assistant():
    assert {role for _, _, names in ROLES.values() for role in names.values()} == {USER, ASSISTANT}


def test_a_dialogue_with_two_last_replies_ranks_them_and_keeps_its_system_turn():
    talk = [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "Who?"}]
    row = {
        "conversations": talk,
        "chosen": {"from": "gpt", "value": "Me."},
        "rejected": {"from": "gpt", "value": "You."},
    }
    opened = ranked("sharegpt_preferences", row)
    assert (opened.system, opened.turns) == ("Be kind.", [{"role": USER, "content": "Who?"}])
    assert [answer["content"] for answer in opened.candidates] == ["Me.", "You."]
    assert fault_of("sharegpt_preferences", row | {"rejected": row["chosen"]}) == "chosen equals rejected"
    unlike = row | {"chosen": "Me."}
    assert fault_of("sharegpt_preferences", unlike) == "chosen and rejected are written differently"


@pytest.mark.parametrize(("preference", "order"), [(1, ["Cat.", "Dog."]), (2, ["Dog.", "Cat."])])
def test_a_stored_judgement_ranks_the_answer_it_prefers_first(preference, order):
    row = {"instruction": "Name it.", "output_1": "Cat.", "output_2": "Dog.", "preference": preference}
    opened = ranked("judged_pairs", row)
    assert [answer["content"] for answer in opened.candidates] == order
    assert opened.turns == [{"role": USER, "content": "Name it."}]


@pytest.mark.parametrize("preference", [0, -1, None, 1.5])
def test_a_stored_judgement_without_a_preference_is_rejected(preference):
    row = {"instruction": "Name it.", "output_1": "Cat.", "output_2": "Dog.", "preference": preference}
    assert fault_of("judged_pairs", row) == "no preference for either answer"


# --- what stands beside ----------------------------------------------------------------------------------------------


def test_alpaca_rows_bring_their_system_message_and_the_exchanges_before():
    row = {"instruction": "Another.", "input": "", "output": "Five.", "system": "Be brief."}
    row["history"] = [["Name a prime.", "Seven."]]
    assert said("alpaca", row) == [TALK]
    ((opened, _),) = open_all("alpaca", row)
    assert opened.system == "Be brief." and opened.unread == frozenset()
    pair = row | {"chosen": "Five.", "rejected": "Six."}
    opened = ranked("alpaca_preferences", pair)
    assert [turn["content"] for turn in opened.turns] == ["Name a prime.", "Seven.", "Another."]
    assert opened.system == "Be brief."
    for broken in ("text", [["only"]], [3], {"a": 1}):
        assert fault_of("alpaca", row | {"history": broken}).startswith("'history' is not")


def test_a_sharegpt_row_brings_its_system_message_in_a_column_or_in_front():
    talk = [{"from": "human", "value": "Name a prime."}, {"from": "gpt", "value": "Seven."}]
    front = [{"from": "system", "value": "Be brief."}, *talk]
    for row in ({"conversations": talk, "system": "Be brief."}, {"conversations": front}):
        ((opened, _),) = open_all("sharegpt", row)
        assert opened.system == "Be brief." and said("sharegpt", row) == [EXCHANGE]
    both = {"conversations": front, "system": "Be brief."}
    assert open_all("sharegpt", both)[0][0].system == "Be brief."
    assert fault_of("sharegpt", both | {"system": "Be long."}) == "two system messages"
    late = {"conversations": [*talk, front[0]]}
    assert fault_of("sharegpt", late) == "speaker the source leaves out"


TURNS = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]
SHARED = [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}]
WITH_SYSTEM = {
    "tutorbot": lambda text: {"conversations": [{"from": "system", "value": text}, *SHARED]},
    "messages": lambda text: {"messages": [{"role": "system", "content": text}, *TURNS]},
    "alpaca": lambda text: {"instruction": "Q?", "output": "A.", "system": text},
    "sharegpt": lambda text: {"conversations": SHARED, "system": text},
    "wizardlm": lambda text: {"conversations": [{"from": "system", "value": text}, *SHARED]},
    "open_orca": lambda text: {"system_prompt": text, "question": "Q?", "response": "A."},
    "prompt_completion": lambda text: {
        "prompt": [{"role": "developer", "content": text}, TURNS[0]],
        "completion": "A.",
    },
    "sharegpt_preferences": lambda text: {
        "conversations": [{"from": "system", "value": text}, SHARED[0]],
        "chosen": SHARED[1],
        "rejected": SHARED[1] | {"value": "B."},
    },
    "preferences": lambda text: {
        "chosen": [{"role": "system", "content": text}, *TURNS],
        "rejected": [{"role": "system", "content": text}, TURNS[0], TURNS[1] | {"content": "B."}],
    },
    "labelled": lambda text: {"messages": [{"role": "system", "content": text}, *TURNS], "label": True},
}


@pytest.mark.parametrize("schema", WITH_SYSTEM)
def test_a_system_message_that_says_nothing_is_none_and_one_that_is_no_text_rejects_its_row(schema):
    for nothing in ("", " \n", None):
        ((opened, fault),) = open_all(schema, WITH_SYSTEM[schema](nothing))
        assert fault is None and opened.system is None
    ((opened, fault),) = open_all(schema, WITH_SYSTEM[schema]("Be brief."))
    assert fault is None and opened.system == "Be brief."
    assert fault_of(schema, WITH_SYSTEM[schema](3)) == "text is not a string"
    assert fault_of(schema, WITH_SYSTEM[schema]("\ud800")) == "lone surrogate"


def test_a_system_message_further_on_that_says_nothing_is_none_too():
    late = {"messages": [TURNS[0], {"role": "system", "content": " "}, TURNS[1]]}
    assert said("messages", late) == [[(USER, "Q?"), (ASSISTANT, "A.")]]
    late = {"conversations": [SHARED[0], {"from": "system", "value": ""}, SHARED[1]]}
    assert said("sharegpt", late) == [[(USER, "Q?"), (ASSISTANT, "A.")]]


def test_a_text_that_comes_in_parts_is_their_text():
    parts = [{"type": "text", "text": "Name a "}, {"type": "text", "text": "prime."}]
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "Seven."}]}
    assert said("messages", row) == [EXCHANGE]
    image = {"messages": [{"role": "user", "content": [{"type": "image"}, *parts]}]}
    ((opened, _),) = open_all("messages", image)
    assert (
        read_turns(opened.turns, opened.style, settings_of("messages")).fault.reason == "text is not a string"
    )


def test_a_value_given_twice_under_one_key_is_no_value():
    row = load_json('{"prompt": "Name a prime.", "completion": "Seven.", "completion": "Nine."}')
    ((opened, _),) = open_all("prompt_completion", row)
    assert (
        read_turns(opened.turns, opened.style, settings_of("messages")).fault.reason == "text is not a string"
    )
    assert fault_of("baize", load_json('{"input": "a", "input": "b"}')) == "text is not a string"


# --- preferences -----------------------------------------------------------------------------------------------------

PROMPT = [{"role": "user", "content": "Name a gas."}]
GAS, CHEESE = ([*PROMPT, {"role": "assistant", "content": text}] for text in ("Oxygen.", "Cheese."))
DIALOGUE = "\n\nHuman: Name a gas.\n\nAssistant: "


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Name a gas.", "chosen": "Oxygen.", "rejected": "Cheese."},
        {"prompt": "Name a gas.", "chosen": GAS, "rejected": CHEESE},
        {"prompt": PROMPT, "chosen": GAS, "rejected": CHEESE},
        {"prompt": PROMPT, "chosen": GAS[1:], "rejected": CHEESE[1:]},
        {"prompt": PROMPT, "chosen": "Oxygen.", "rejected": "Cheese."},
        {"prompt": "Name a gas.", "chosen": GAS[1], "rejected": CHEESE[1]},
        {"messages": PROMPT, "chosen": GAS[1], "rejected": CHEESE[1]},
        {"chosen": GAS, "rejected": CHEESE},
        {"chosen": f"{DIALOGUE}Oxygen.", "rejected": f"{DIALOGUE}Cheese."},
        {"prompt": DIALOGUE.rstrip(), "chosen": " Oxygen.".strip(), "rejected": "Cheese."},
        {"instruction": "Name a gas.", "input": "", "chosen": "Oxygen.", "rejected": "Cheese."},
        {
            "conversations": [{"from": "human", "value": "Name a gas."}],
            "chosen": {"from": "gpt", "value": "Oxygen."},
            "rejected": {"from": "gpt", "value": "Cheese."},
        },
    ],
)
def test_a_preference_is_read_in_every_shape_it_is_published_in(row):
    opened = ranked("preferences", row)
    assert opened.turns == PROMPT and opened.system is None and opened.unread == frozenset()
    assert [answer["content"] for answer in opened.candidates] == ["Oxygen.", "Cheese."]


def test_columns_of_other_shapes_that_stand_empty_hide_no_row():
    empty = dict.fromkeys(("instruction", "prompt", "messages", "conversations", "completion", "output"))
    for nothing in (None, "", []):
        others = dict.fromkeys(empty, nothing)
        for row in (
            {"prompt": "Q?"},
            {"messages": [TURNS[0]]},
            {"instruction": "Q?"},
            {"conversations": [{"from": "human", "value": "Q?"}]},
        ):
            opened = ranked("preferences", others | row | {"chosen": "A.", "rejected": "B."})
            assert opened.turns == [{"role": USER, "content": "Q?"}]
        for row in (
            {"prompt": "Q?", "completion": "A."},
            {"messages": TURNS},
            {"conversations": SHARED},
            {"instruction": "Q?", "output": "A."},
        ):
            assert ranked("labelled", others | row | {"label": True}).candidates[0]["content"] == "A."
        assert said("wizardlm", others | {"instruction": "Q?", "output": "A."}) == [
            [(USER, "Q?"), (ASSISTANT, "A.")]
        ]
        instance = {"definition": "Add.", "inputs": "1+1", "targets": "2", "Instances": nothing}
        assert said("super_ni", instance) == [[(USER, "Add.\n\n1+1"), (ASSISTANT, "2")]]


def test_one_of_two_dialogues_once_more_in_a_column_is_no_other_prompt():
    for said_again in (GAS, CHEESE):
        opened = ranked("preferences", {"messages": said_again, "chosen": GAS, "rejected": CHEESE})
        assert opened.turns == PROMPT
    other = [*PROMPT, {"role": "assistant", "content": "Gold."}]
    row = {"messages": other, "chosen": GAS, "rejected": CHEESE}
    assert fault_of("preferences", row) == "prompt is not that of chosen and rejected"


def test_nothing_of_a_prompt_is_lost_that_stands_beside_two_dialogues_and_says_more():
    row, told = {"chosen": GAS, "rejected": CHEESE}, {"role": "system", "content": "Be brief."}
    assert ranked("preferences", row | {"prompt": [told, *PROMPT]}).system == "Be brief."
    own = {
        "chosen": [told | {"content": "Be long."}, *GAS],
        "rejected": [told | {"content": "Be long."}, *CHEESE],
    }
    assert fault_of("preferences", own | {"prompt": [told, *PROMPT]}) == "two system messages"
    more = "prompt is not that of chosen and rejected"
    other = {"from": "human", "value": "Name a metal."}
    assert fault_of("preferences", row | {"conversations": [other]}) == more
    assert (
        fault_of("preferences", row | {"instruction": "Name a gas.", "history": [["Hi.", "Hello."]]}) == more
    )
    assert fault_of("preferences", row | {"prompt": [{"role": "user", "content": "Hi."}, *PROMPT]}) == more


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}])
def test_a_reply_that_is_not_to_be_learned_is_no_candidate(mark):
    unlearned = [PROMPT[0], GAS[1] | mark]
    assert fault_of("preferences", {"chosen": unlearned, "rejected": CHEESE}) == "no turn to learn from"
    assert fault_of("labelled", {"messages": unlearned, "label": True}) == "no turn to learn from"
    before = [*unlearned, PROMPT[0]]
    row = {"chosen": [*before, GAS[1]], "rejected": [*before, CHEESE[1]]}
    assert [turn["content"] for turn in ranked("preferences", row).turns][
        1
    ] == "Oxygen."  # it is context there


def test_two_dialogues_share_all_but_their_last_reply():
    longer = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Name a gas.\n\nAssistant:"
    opened = ranked("preferences", {"chosen": f"{longer} Oxygen.", "rejected": f"{longer} No."})
    assert [turn["content"] for turn in opened.turns] == ["Hi.", "Hello.", "Name a gas."]


def test_the_scores_of_a_pair_are_its_rewards():
    row = {"chosen": GAS, "rejected": CHEESE, "score_chosen": 8.0, "score_rejected": 3}
    assert [answer["rewards"] for answer in ranked("preferences", row).candidates] == [
        {"score": 8.0},
        {"score": 3.0},
    ]
    assert fault_of("preferences", row | {"score_rejected": None}) == "reward is not a finite number"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": "Oxygen.", "rejected": "Cheese."}, "no prompt"),
        ({"prompt": "", "chosen": "Oxygen.", "rejected": "Cheese."}, "no prompt"),
        ({"prompt": "Q?", "chosen": "Oxygen."}, "missing field 'rejected'"),
        ({"prompt": "Q?", "chosen": "A.", "rejected": "A."}, "chosen equals rejected"),
        ({"prompt": "Q?", "chosen": "A.", "rejected": ["B."]}, "chosen and rejected are written differently"),
        ({"prompt": "Q?", "chosen": 1, "rejected": 2}, "text is not a string"),
        ({"prompt": "Q?", "chosen": [], "rejected": []}, "chosen and rejected do not end on the assistant"),
        (
            {"prompt": "Another?", "chosen": GAS, "rejected": CHEESE},
            "prompt is not that of chosen and rejected",
        ),
        (
            {"chosen": GAS, "rejected": [{"role": "user", "content": "Else?"}, CHEESE[1]]},
            "chosen and rejected do not share one prompt",
        ),
        ({"chosen": GAS, "rejected": PROMPT}, "chosen and rejected do not end on the assistant"),
        ({"chosen": GAS, "rejected": [*PROMPT, GAS[1] | {"tool_calls": [1]}]}, "calls a tool"),
        ({"prompt": [3], "chosen": "A.", "rejected": "B."}, "turn is not an object"),
        (
            {
                "conversations": [{"from": ["human"], "value": "Q?"}],
                "chosen": SHARED[1],
                "rejected": SHARED[1],
            },
            "chosen equals rejected",
        ),
    ],
)
def test_a_preference_that_is_none_says_why(row, reason):
    assert fault_of("preferences", row) == reason


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q?", "completion": "A.", "label": False},
        {"prompt": [TURNS[0]], "completion": [TURNS[1]], "label": False},
        {"messages": TURNS, "label": False},
        {"conversations": SHARED, "kto_tag": False},
        {"instruction": "Q?", "input": "", "output": "A.", "kto_tag": False},
    ],
)
def test_a_label_becomes_a_reward_and_a_rank_and_no_other_schema_learns_a_bad_answer(row):
    opened = ranked("labelled", row)
    assert opened.turns == [{"role": USER, "content": "Q?"}]
    assert opened.candidates == [{"content": "A.", "rewards": {"label": 0.0}, "rank": 1}]
    good = ranked("labelled", {key: True if value is False else value for key, value in row.items()})
    assert good.candidates == [{"content": "A.", "rewards": {"label": 1.0}, "rank": 0}]
    shape = {"prompt": "prompt_completion", "messages": "messages", "conversations": "sharegpt"}
    plain = next((schema for key, schema in shape.items() if key in row), "alpaca")
    assert fault_of(plain, row) == "labelled as a bad answer"
    assert (
        fault_of("labelled", {key: value for key, value in row.items() if value is not False}) == "no label"
    )


def test_an_answer_that_is_labelled_both_good_and_bad_is_neither():
    row = {"prompt": "Q?", "completion": "A.", "label": True, "kto_tag": False}
    assert fault_of("labelled", row) == fault_of("prompt_completion", row) == "two labels"
    assert ranked("labelled", row | {"kto_tag": True}).candidates[0]["rank"] == 0


@pytest.mark.parametrize("label", [1, 0, "true", "good", [True]])
def test_a_label_that_is_neither_true_nor_false_is_told_apart_from_none(label):
    row = {"prompt": "Q?", "completion": "A."}
    assert fault_of("labelled", row | {"label": label}) == "label is neither true nor false"
    assert fault_of("labelled", row | {"label": None}) == "no label"

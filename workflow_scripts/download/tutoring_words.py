"""What simulated students and tutors say beside what the problem bank has; see `simulate_dialogues`."""

PREAMBLE = (
    "Instructions to Act as a Tutorbot: help the student one sub-problem at a time. Judge each answer, "
    "choose an action, and reply with the fields of the form. Student: "
)

SURE = "I am sure."
# Students who are wrong doubt it more often than students who are right, and those who are half right know it now and
# then (`hedge_rates`): a cue, not a giveaway.
HEDGES = {"a": "I am guessing.", "b": "I am guessing.", "c": "That is all I have."}

UNCLEAR = (
    "hmm",
    "it depends",
    "uh, that thing",
    "the usual reason",
    "it just does",
    "that one, you know",
)

OFF_TOPIC = (
    "Did you see the football last night?",
    "My cat knocked over a lamp today.",
    "It is raining a lot this week.",
    "I have a guitar lesson later.",
    "My brother got a new bike.",
    "Tell me a joke, please.",
)

HINT_REQUESTS = (
    "Can I have a hint?",
    "Please give me a clue.",
    "A small hint would be great.",
)

SURRENDERS = (
    "Just tell me the answer.",
    "I give up.",
    "Please show me the solution.",
)

RETURNS = (
    "Can we go back to the previous step?",
    "I would like to redo the last question.",
)

EXPLANATIONS = (
    "Why does this matter here?",
    "Can you explain the background?",
    "What is the idea behind this question?",
)

GOODBYES = (
    "Thanks, bye!", "Thank you for the help.", "Great, see you next time.", "Thanks, that was fun.",
    "Okay, goodbye.",
)  # fmt: skip

OPENINGS = ("Let us start here.", "Here is the first step.", "First things first.")
CONFIRMATIONS = ("That is right.", "Correct, well done.", "Yes, exactly.")
FAREWELLS = (
    "Well done today. Come back with your next question.",
    "You are welcome. Goodbye and keep learning.",
)

THOUGHTS = {
    "a": "The answer is wrong.",
    "b": "The answer is right.",
    "c": "The answer is only half right.",
    "d": "I cannot tell what is meant.",
    "e": "This is not about the problem.",
    "f": "The student asks for something.",
    "g": "There is no answer to judge.",
}

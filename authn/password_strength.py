"""zxcvbn: its lists as the blocklist, its opinion as advice. Imported when first needed: its lists take a moment."""

from collections.abc import Iterable

from zxcvbn import feedback, matching, scoring
from zxcvbn.time_estimates import estimate_attack_times

from authn.passwords import Advice

MAX_JUDGED = 32
"""Characters that are looked at: what zxcvbn takes grows with their square and more, 0.1 s at this length."""
MAX_CONTEXT_WORDS = 200


def is_known_word(word: object) -> bool:
    """Whether it is one of the passwords, words and names that zxcvbn knows: some 90,000, lower case."""
    return any(word in ranked for ranked in matching.RANKED_DICTIONARIES.values())


def advise(password: str, context_words: Iterable[str]) -> Advice:
    """Return what zxcvbn thinks of the first characters of a password. Slow: not for the event loop."""
    words = [word.lower() for word in context_words][:MAX_CONTEXT_WORDS]
    # `zxcvbn()` itself writes the words into a dictionary that all threads and tenants share.
    known = {**matching.RANKED_DICTIONARIES, "user_inputs": matching.build_ranked_dict(words)}
    judged = password[:MAX_JUDGED]
    found = scoring.most_guessable_match_sequence(judged, matching.omnimatch(judged, known))
    score = int(estimate_attack_times(found["guesses"])["score"])
    said = feedback.get_feedback(score, found["sequence"])
    return Advice(score, str(said["warning"]), tuple(str(suggestion) for suggestion in said["suggestions"]))

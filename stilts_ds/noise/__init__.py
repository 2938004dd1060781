"""Noise in evaluation texts: misspellings of keyboards and people, lost accents, wrong case, words of other languages.

    spec.py       the notation (`xnli@typo-5`) and what it means
    scripts.py    what a letter may become in each script
    keyboards.py  which keys are neighbours, in 50 languages
    hangul.py     syllables and their jamo
    clusters.py   a text as grapheme clusters, edits of them, offsets before and after
    kinds.py      one function a kind of noise
    noiser.py     which edits an example gets
    greedy.py     the same edits where an opponent wants them

Knows strings and languages, no task and no file.
"""

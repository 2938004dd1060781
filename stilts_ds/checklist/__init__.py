"""MultiCheckList: six behavioural tests of question answering, generated from a table of templates in many languages.

Ruder et al. 2021, arXiv 2104.07412, section 5; Ribeiro et al. 2020 (CheckList). No task is read and nothing is scored
here: `templates` reads the table, `cases` draws cases from it, `write` makes files in SQuAD's schema of them.
"""

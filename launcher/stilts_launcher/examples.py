"""Examples under the help of each verb; a test parses every one. Nothing is imported here: help must come at once."""

from __future__ import annotations

# By verb; "" is the command's own help.
EXAMPLES: dict[str, tuple[str, ...]] = {
    "": (
        "stilts demo                               # the whole study in miniature, in minutes, without network",
        "stilts plan xstilts                       # the paper's study: phases, steps, memory",
        "stilts run my-study.yaml seeds=[1,2]      # train, evaluate, score, report; continues where it was",
        "stilts status my-study --watch",
    ),
    "demo": ("stilts demo", "stilts demo --quiet"),
    "init": ("stilts init my-study", "stilts init my-study --cluster gpu --seeds 1,2,3 --yes"),
    "run": (
        "stilts run quickstart",
        "stilts run my-study.yaml engine.zero_stage=3 seeds=[1,2,3]",
        "stilts run my-study.yaml limit=100              # a quick look: 100 examples of everything",
        "stilts run my-study.yaml --phase none/seed1/xnli",
        "torchrun --nproc-per-node 2 --no-python stilts run my-study.yaml",
    ),
    "train": ("stilts train my-study.yaml", "stilts train my-study.yaml --phase mnli/seed1/intermediate -v"),
    "plan": (
        "stilts plan xstilts",
        "stilts plan my-study.yaml --phases              # every phase with its memory",
        "stilts plan my-study.yaml --ranks 8 --gpu-memory 80",
        "stilts plan my-study.yaml --json",
    ),
    "prepare": (
        "stilts prepare my-study.yaml",
        "stilts prepare runs/my-study --processes 16    # on another node at the same time: they divide the work",
    ),
    "fetch": ("stilts fetch my-study.yaml", "stilts fetch xstilts data.source=hub"),
    "evaluate": ("stilts evaluate my-study",),
    "score": (
        "stilts score my-study",
        "stilts score --predictions predictions --labels labels --split test --output scores",
        "stilts score --verdicts verdicts.jsonl",
    ),
    "report": ("stilts report my-study", "stilts report my-study --resamples 10000 --level 0.01 --svg --pdf"),
    "compare": (
        "stilts compare runs/mine runs/last-year --targets xnli,xquad",
        "stilts compare my-study:none my-study:mnli --json",
    ),
    "attack": ("stilts attack my-study xnli@typo-5 --condition mnli --examples 50",),
    "submit": (
        "stilts submit my-study.yaml --cluster my-cluster.yaml --dry-run",
        "stilts submit my-study.yaml --cluster my-cluster.yaml --watch",
    ),
    "status": (
        "stilts status my-study",
        "stilts status my-study --phases                 # a line for each phase",
        "stilts status my-study --watch 30 && stilts report my-study",
        "stilts status my-study --json",
    ),
    "logs": (
        "stilts logs my-study                            # of what runs or failed",
        "stilts logs my-study mnli/seed2 -f --rank 3",
    ),
    "cancel": ("stilts cancel my-study", "stilts cancel my-study mnli/seed2"),
    "retry": ("stilts retry my-study",),
    "clean": ("stilts clean runs/my-study", "stilts clean runs/my-study --keep scores --yes"),
    "export": ("stilts export runs/my-study/mnli/seed1/xnli --task xnli --license apache-2.0",),
    "push": ("stilts push runs/my-study/none/seed1/xnli --repo me/xlmr-nli --dry-run",),
    "submission": ("stilts submission my-study --condition multitask --seed 1", "stilts submission my-study --best"),
    "tasks": (
        "stilts tasks",
        "stilts tasks squad_v2 --show 3 --intermediate data/intermediate",
        "stilts tasks xnli --show 2 --split test --language sw --xtreme data/xtreme",
        "stilts tasks --json",
    ),
    "noise": ("stilts noise xnli --kind typo --rate 5 --language de --xtreme data/xtreme --output noisy",),
    "checklist": ("stilts checklist checklist_templates.tsv --language de --output data/xtreme/multichecklist",),
    "execute": (
        "stilts execute programs.jsonl -o verdicts.jsonl --allow",
        "stilts execute --benchmark humaneval --problems HumanEval.jsonl.gz --canonical -o verdicts.jsonl --allow",
    ),
    "embed": ("stilts embed FacebookAI/xlm-roberta-base de.txt -o de.npy",),
    "mine": (
        "stilts mine de.txt en.txt --model FacebookAI/xlm-roberta-base -o pairs.tsv",
        "stilts mine --plan --sentences 1e9 1e9 --width 1024",
    ),
    "search": ("stilts search queries.npy bank.npy -k 16 -o neighbours.tsv",),
    "schema": ("stilts schema > recipe.schema.json",),
    "doctor": ("stilts doctor", "stilts doctor my-study.yaml --trial", "stilts doctor --json"),
    "bench": ("stilts bench kernels", "stilts bench training -h"),
    "completion": (
        'eval "$(stilts completion bash)"                # put it into ~/.bashrc',
        'eval "$(stilts completion zsh)"                 # after compinit, in ~/.zshrc',
        "stilts completion fish > ~/.config/fish/completions/stilts.fish",
    ),
}

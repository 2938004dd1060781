"""The archives that data sets are published as, with size and SHA-256: data only.

Files out of an archive have no published hash of their own, but whoever unpacked them can check what they came in.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """One file to download. `tasks`: names of those whose files are in it, or are made of it by XTREME's scripts."""

    tasks: str
    url: str
    size: int | None  # bytes, where known
    sha256: str


ARCHIVES = (
    # The metadata that the others are from have ANLI 0.1: this hash is from two programs that check their download.
    Archive(
        "anli_plus",
        "https://dl.fbaipublicfiles.com/anli/anli_v1.0.zip",
        18_708_061,
        "e5c058f2bb4e6190b0651badca2c590e45db95248f8b28cde674615ee40820bf",
    ),
    Archive(
        "xnli",
        "https://dl.fbaipublicfiles.com/XNLI/XNLI-1.0.zip",
        17_865_352,
        "4ba1d5e1afdb7161f0f23c66dc787802ccfa8a25a3ddd3b165a35e50df346ab1",
    ),
    # No archives: one file holds all languages, and XTREME's script writes a file for each.
    Archive(
        "tydiqa",
        "https://storage.googleapis.com/tydiqa/v1.1/tydiqa-goldp-v1.1-train.json",
        58_004_076,
        "cefc8e09ff2548d9b10a678d3a6bbbe5bc036be543f92418819ea676c97be23b",
    ),
    Archive(
        "tydiqa",
        "https://storage.googleapis.com/tydiqa/v1.1/tydiqa-goldp-v1.1-dev.json",
        5_617_409,
        "b286e0f34bc7f52259359989716f369b160565bd12ad8f3a3e311f9b0dbad1c0",
    ),
    # Hugging Face's copy: XTREME has its users fetch the original by hand.
    Archive(
        "panx",
        "https://s3.amazonaws.com/datasets.huggingface.co/wikiann/1.1.0/panx_dataset.zip",
        234_008_884,
        "164814b64f749ad000988b5ab45050b5116913b3db466ab173008955ddf649a4",
    ),
    Archive(
        "mlqa",
        "https://dl.fbaipublicfiles.com/MLQA/MLQA_V1.zip",
        75_719_050,
        "246e8089933d13007fe80684d5c5c0713d6834cf8b3b4a0ec7c66f0a0d2baac8",
    ),
    # XTREME tests on BUCC's training sets and takes its samples as dev sets: they are the ones with gold pairs.
    Archive(
        "bucc2018",
        "https://comparable.limsi.fr/bucc2018/bucc2018-de-en.training-gold.tar.bz2",
        28_189_548,
        "766e0fdebbd1438fb87c21254828eb13c8b997d8fbab002103dd060dcac50c5c",
    ),
    Archive(
        "bucc2018",
        "https://comparable.limsi.fr/bucc2018/bucc2018-de-en.sample-gold.tar.bz2",
        2_529_652,
        "8e16ba8b02ef8d648b06adfbd6dfb188f43524e18f97b2b12a14a086caac62f3",
    ),
    Archive(
        "bucc2018",
        "https://comparable.limsi.fr/bucc2018/bucc2018-fr-en.training-gold.tar.bz2",
        20_757_713,
        "53c0d0e7dd97dc89593a2db25a26c5f0ccdc7113e8451263bb0c80e4c4c7dc30",
    ),
    Archive(
        "bucc2018",
        "https://comparable.limsi.fr/bucc2018/bucc2018-fr-en.sample-gold.tar.bz2",
        1_948_831,
        "df9eb3966954e163c9264076f7c9c1eb56d9d8a91855f9d3afbf2c0fdaef0a08",
    ),
    Archive(
        "bucc2018",
        "https://comparable.limsi.fr/bucc2018/bucc2018-zh-en.training-gold.tar.bz2",
        6_344_925,
        "3facb71798277c8f44dc78c1f8ae2110f254d0e14799f3508eedd54b4236877a",
    ),
    Archive(
        "bucc2018",
        "https://comparable.limsi.fr/bucc2018/bucc2018-zh-en.sample-gold.tar.bz2",
        769_869,
        "a3425be5c0320ee131a0927b66c3e29befb3b481ebf1b87257e660e514bc16ac",
    ),
    Archive(
        "bucc2018",
        "https://comparable.limsi.fr/bucc2018/bucc2018-ru-en.training-gold.tar.bz2",
        37_085_079,
        "1895df56e936ca3d4f5b12299ceffe0b7ff4806584c40bdaa3ae1d445f25afa5",
    ),
    Archive(
        "bucc2018",
        "https://comparable.limsi.fr/bucc2018/bucc2018-ru-en.sample-gold.tar.bz2",
        4_269_233,
        "fce3cabc7ee50ddb4b18aa6fb090e2669c8383d2a29fc97eed6ae70fed9a23e5",
    ),
    Archive(
        "pawsx",
        "https://storage.googleapis.com/paws/pawsx/x-final.tar.gz",
        30_282_057,
        "4146db499101d66e68ae4c8ed3cf9dadecd625f44b7d8cf3d4a0fe93afc4fd9f",
    ),
    # UD 2.5, as XTREME reads it. The archive of 2.7, for what XTREME-R adds, has no hash in these metadata.
    Archive(
        "udpos",
        "https://lindat.mff.cuni.cz/repository/xmlui/bitstream/handle/11234/1-3105/ud-treebanks-v2.5.tgz",
        355_216_681,
        "5ff973e44345a5f69b94cc1427158e14e851c967d58773cc2ac5a1d3adaca409",
    ),
    # ANLI+ is ANLI with all of SNLI and MNLI, so three archives serve it.
    Archive(
        "udpos",
        "https://lindat.mff.cuni.cz/repository/xmlui/bitstream/handle/11234/1-3424/ud-treebanks-v2.7.tgz",
        None,
        "ee61f186ac5701440f9d2889ca26da35f18d433255b5a188b0df30bc1525502b",
    ),
    Archive(
        "anli_plus",
        "https://nlp.stanford.edu/projects/snli/snli_1.0.zip",
        94_550_081,
        "afb3d70a5af5d8de0d9d81e2637e0fb8c22d1235c2749d83125ca43dab0dbd3e",
    ),
    Archive(
        "mnli anli_plus",
        "https://cims.nyu.edu/~sbowman/multinli/multinli_1.0.zip",
        226_850_426,
        "049f507b9e36b1fcb756cfd5aeb3b7a0cfcb84bf023793652987f7e7e0957822",
    ),
    Archive(
        "qqp",
        "https://dl.fbaipublicfiles.com/glue/data/QQP-clean.zip",
        41_696_084,
        "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0",
    ),
    Archive(
        "siqa",
        "https://storage.googleapis.com/ai2-mosaic/public/socialiqa/socialiqa-train-dev.zip",
        2_198_056,
        "ee073914a0fc33265cfbcfc50ec20df9b2e07809c3f420f599138d1f394ef5c3",
    ),
    # English COPA, on which XCOPA is trained; the translations are small files with hashes of their own.
    Archive(
        "xcopa",
        "https://dl.fbaipublicfiles.com/glue/superglue/data/v2/COPA.zip",
        43_986,
        "405906cddac74bc1e1ce8220f1107d1025b66a25ef10149d91b10bb30651125f",
    ),
)

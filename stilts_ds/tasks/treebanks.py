"""Test files of Universal Dependencies, as two releases have them: sentences and SHA-256, data only.

Computed from the treebanks' own repositories at the tags of these releases. The files of Arabic NYUAD and PADT, German
HDT, Hindi HDTB and Russian SynTagRus could not be had so. ESL and FTB hold no words, which are withheld.
"""

from __future__ import annotations

# Release, language, treebank, sentences, SHA-256. 2.5 serves XTREME's languages, 2.7 those that XTREME-R adds.
_FILES = (
    ("2.5", "af", "Afrikaans-AfriBooms", 425, "957ad05d870725062e7d319f957818d146468ba2adc547e50586689221c62efb"),
    ("2.5", "ar", "Arabic-PUD", 1000, "a35229b853710ce9aebafa1bfa565315f631042b90510431b259e769471dda1a"),
    ("2.5", "eu", "Basque-BDT", 1799, "6e50eda7608c7a68c52cd94ba7dab1ff0d6f5d5059347c19ef6ebd6660f974a1"),
    ("2.5", "bg", "Bulgarian-BTB", 1116, "42f89997f3bd3cf41d4043fe7dfb9984658a47130dbe9045968192de9a9875c8"),
    ("2.5", "zh", "Chinese-CFL", 451, "10de55d26ac597dce751753a1771cfbd2e699324c55746ddeef687118b92e9c9"),
    ("2.5", "zh", "Chinese-GSD", 500, "0fddc51e6220eafa3ed1f58328b5b4bf2e1608aaa9a4f79f076cede5b3caf5ee"),
    ("2.5", "zh", "Chinese-GSDSimp", 500, "72f7f45d0f084b85b2fe7b8161a4f83412cbbeb38179e01b8044ddae582813f0"),
    ("2.5", "zh", "Chinese-HK", 1004, "69020e8bf9f87a8dd63b54f3d76f371a267000229ccff3ce9746ca5031ef1617"),
    ("2.5", "zh", "Chinese-PUD", 1000, "5d60995919ae918d9964fd071ae92bbec392cd3305531b7d4c55ef4fcbee7019"),
    ("2.5", "nl", "Dutch-Alpino", 596, "91af2b41a89210f023005d66cfeffe9da460a1e3a57cdb15cd693b7835931095"),
    ("2.5", "nl", "Dutch-LassySmall", 875, "f8d8aa553264a212c580426e761867addac0ea846e5f4d169ac4f6a21b6231a9"),
    ("2.5", "en", "English-ESL", 500, "fcfdd0e8f4270634a02781a43a6c5f3de25dd1c98109b03ca7bef9b3c87c4fd6"),
    ("2.5", "en", "English-EWT", 2077, "7ab1db2c67549a3b0e695e38a8fb48efd13c02f5a811f7694c634ec7a4dd19ff"),
    ("2.5", "en", "English-GUM", 890, "92d07f249d5acd6f4de2e33c87f150b3ad8cea132837d24eb01f9cf5970d0ce2"),
    ("2.5", "en", "English-LinES", 1035, "662e5bec284e2c79ba71b94b51d4a1c897df8d13ce26cab1311f688231ec5b94"),
    ("2.5", "en", "English-PUD", 1000, "e312f9f0273b51634e1b32b7f8c3122341c168a22713a5eefe2d2fbe15ca6545"),
    ("2.5", "en", "English-ParTUT", 153, "7d1af5ae57e83647ca4d9ff85c555f91ee0e63b0e2bd7c00ca7a92b3e66cdeda"),
    ("2.5", "en", "English-Pronouns", 285, "de10b456652d3ca5ce1c7b9bfdaa39f6326b5334f0e65c723ee2f19991d46e2e"),
    ("2.5", "et", "Estonian-EDT", 3214, "b3bd2a2fa8fb7a1a5f40b4c87524d437d8f19a395d0e9936eef53acda973c75f"),
    ("2.5", "et", "Estonian-EWT", 546, "a5f0f379da49ed8de61abd2c86f4f7e3dd68f022fbd02beb1a7d2f7cd1d16675"),
    ("2.5", "fi", "Finnish-FTB", 1867, "294de4b7b5c33b6a942bb1d2cb50d8c7f151fbb934c0e7eee0aaed3d6bdcf729"),
    ("2.5", "fi", "Finnish-PUD", 1000, "568e79c1ffe45abf60ba9a19c0b77516828d48518e3ad6b351746bcaa599181c"),
    ("2.5", "fi", "Finnish-TDT", 1555, "4f5656a5848df334b17489f17f66b76509d8a4d95d2a165aff0998161ae1fd5b"),
    ("2.5", "fr", "French-FQB", 2289, "28128cee72d1c7f49e7b0f273948dd7a13158133ee11967b41c92afae382a73d"),
    ("2.5", "fr", "French-FTB", 2541, "cba016058654eefb0ab0f34d28ff0fed8f6a8692d115983984cdd686110e2fff"),
    ("2.5", "fr", "French-GSD", 416, "8ebf4e9145e16e8b83091de175e03b86a4898414e891c4f778a1ae6d3f45cd57"),
    ("2.5", "fr", "French-PUD", 1000, "8c2d383bc1a9aae1113fcf07259b5c067e9caec3732b19c0f2343e1bc4beb215"),
    ("2.5", "fr", "French-ParTUT", 110, "441373e22dd6dc525ada5fdd58e8236f9daa48cf1b54532321f20c647e97b773"),
    ("2.5", "fr", "French-Sequoia", 456, "9a53c0d32ebeec9e757fc906bbaae1c511a27faba45360f0ecbc64552c962fc5"),
    ("2.5", "fr", "French-Spoken", 726, "cc65b78fb89b1baa14fee552e1c77139438e94189b6a5dc18252eb205a8deeac"),
    ("2.5", "de", "German-GSD", 977, "4425aca2c4c62ce91af143d62bf055546035573b74f179fa1bdcd29faabed084"),
    ("2.5", "de", "German-LIT", 1922, "85d54e8d73206994ef54a4e430f35804e2b24ee5c3677c68552d5a5d8af5c52f"),
    ("2.5", "de", "German-PUD", 1000, "e7f4798cf8f749752cf25303cbaca0837dd89d1dfd41c8f9ccac614aca1723ed"),
    ("2.5", "el", "Greek-GDT", 456, "3ac83e7f7e0e579de16b9b58ff1469a00e81320f8ed19da538bd671798f78bb0"),
    ("2.5", "he", "Hebrew-HTB", 491, "d1bed9b4040a49fe76251adb52bdd6553e3c56ca200b4733a67cf4a0250cb762"),
    ("2.5", "hi", "Hindi-PUD", 1000, "2e2c3d8bd134c19c74985a97f4f5ab2a8dca1e3102e9eb7afd22cad3d360c7ff"),
    ("2.5", "hu", "Hungarian-Szeged", 449, "0d86af4095c413f70fd72a4301aa8c675bbeb044eb4754851e23de24300fa89b"),
    ("2.5", "id", "Indonesian-GSD", 557, "e1dc250145564cf6443c6880b1e5a67f0be7af04bec04ae6787e6193795d7144"),
    ("2.5", "id", "Indonesian-PUD", 1000, "70389e9eaed86f07a898a0f05ec30df7b58b3f898a22623a189b854707072bdc"),
    ("2.5", "it", "Italian-ISDT", 482, "909b35426b70f26721a1c817ded7c1f0fabd84b3c0a05ae9d32c430af90dc4ef"),
    ("2.5", "it", "Italian-PUD", 1000, "9a58c203ac578ef51456c49c70ab60473bf540474d052d3714d861a89f119d03"),
    ("2.5", "it", "Italian-ParTUT", 153, "6a3f3437fd3ab383ba37122ec84cc1bd53662512f5ff1e80ed306c6b668eb6a2"),
    ("2.5", "it", "Italian-PoSTWITA", 674, "8ec1dccf3b4f5ac0fb403041a96a7a57300341188e556f1cd576caff607941aa"),
    ("2.5", "it", "Italian-TWITTIRO", 142, "315063434144c3e98c3a79b3a4a79ea23ed4527ed8fa073a551deedf48264f6f"),
    ("2.5", "it", "Italian-VIT", 1067, "d0b7b068dc7c69a9d170df994984c0f61a9ec2ad80bab111ba14fcdd73d8fd33"),
    ("2.5", "ja", "Japanese-GSD", 550, "1053a4d1bfc057fdc6e7537548338ba42f9b66264a084b6da981775d73d27574"),
    ("2.5", "ja", "Japanese-Modern", 822, "f3b12e01e31b254daeacc4a8cae5b33c139578b8ac08ebda79fadb8ea43b92fa"),
    ("2.5", "ja", "Japanese-PUD", 1000, "33a41e4a3f58d07663e178dbe5ec156453da44f1b19aa2017ad0718c3b5f398a"),
    ("2.5", "kk", "Kazakh-KTB", 1047, "1d38948088e8a7cca4dbb31c8c900c80e14bb522293a28a248c7f4583313bf2c"),
    ("2.5", "ko", "Korean-GSD", 989, "875b8cf2223767c44c641c63a87fe266725c3e5ff0d7080732f7d5ba98eb4a19"),
    ("2.5", "ko", "Korean-Kaist", 2287, "1d85f882bc1f431c59dc09695a582406d185c588bf12bb3b90bb9150a30af0a4"),
    ("2.5", "ko", "Korean-PUD", 1000, "7f491016272abe54235ce77857781279399138a1874a4b961842cf00f3fdfa81"),
    ("2.5", "mr", "Marathi-UFAL", 47, "92212e6e72e4baab0c6a85ee6514e67fdb1bf7e870ea634cd8764b801ded6654"),
    ("2.5", "fa", "Persian-Seraji", 600, "9c702c9031a6cccb133d41e56e6e183f670e2c705ca129f4114e3a44209b0125"),
    ("2.5", "pt", "Portuguese-Bosque", 477, "3f9e34c39e6613aedfc2a80f722c684320145797fe6c9b9f1d2671b0801fdd41"),
    ("2.5", "pt", "Portuguese-GSD", 1204, "1734883a05752944540aaf7785990ae9f397ed5472c3724c09f4af4ed95bccd5"),
    ("2.5", "pt", "Portuguese-PUD", 1000, "ed249cee903fae6339a61e4cac3d9405455d997a83bb1c6dae28a3d1808b1d98"),
    ("2.5", "ru", "Russian-GSD", 601, "3b124dd43069c310347fb3785d81f90c6539f7b2a7bd56f5ea068b5e912b5e4a"),
    ("2.5", "ru", "Russian-PUD", 1000, "b26bb70d872070b73667d40bdfd95fc9aa153ab00d35736693cb0f64d92892b9"),
    ("2.5", "ru", "Russian-Taiga", 884, "30618a60e1eda968f2a205ec79d54e9fcbaebf5dcbf285743945093473a91453"),
    ("2.5", "es", "Spanish-AnCora", 1721, "e2a017488f12fc30f7932fca32169cd12894f775753232af04aa0f262246d116"),
    ("2.5", "es", "Spanish-GSD", 426, "9f973b4f6d959af121de6d5b99e727f2f5ef7ff44171f904271137997d737f8d"),
    ("2.5", "es", "Spanish-PUD", 1000, "35ecb2a635eda40ed8d37000f12677364f3a8b0de875d84e0dab7f6ca5208e81"),
    ("2.5", "tl", "Tagalog-TRG", 55, "4fb23d0b869c569f11ae06a6d15be86a0ce49e26638c9d24dc36737875e3a5bf"),
    ("2.5", "ta", "Tamil-TTB", 120, "a53ea8ed782c2a75e70993d4cabc31507ef96daaa2c47b771a17fd168ad9d08d"),
    ("2.5", "te", "Telugu-MTG", 146, "8b33815b8b453caad963039f133f554f2d66fb155890e0d1cc6b896ef1078d22"),
    ("2.5", "th", "Thai-PUD", 1000, "1b4a222b8ed3f262ff2979bf9a1f37c824b151c1d3b10ae07c194fa7b4311a8d"),
    ("2.5", "tr", "Turkish-GB", 2802, "63f149aa8355f1f5ecca737491b2995f9af5506e5cfb112762a89a30d8326366"),
    ("2.5", "tr", "Turkish-IMST", 983, "81da92f533e370bfa3108b3986cca9d5ddfdd37f8478c1fb9ac5861836b4ffc9"),
    ("2.5", "tr", "Turkish-PUD", 1000, "97ba0464028ee5d3ee4eae8df5b48777fc435d34f0ba9be904d2e8f0d7d6fd22"),
    ("2.5", "ur", "Urdu-UDTB", 535, "ba3dd5203a2b21df21956e52d3789dd5e12024e83eda9fe3620aded9275f01f9"),
    ("2.5", "vi", "Vietnamese-VTB", 800, "b08df1cac9f1707ca0e6b079b36f51937a62ea4e25112e6cdc11b31b68583ba3"),
    ("2.5", "yo", "Yoruba-YTB", 100, "b06f0a7d48edf67d27b4914506d9abfa31fe37b99a83a6b58f2ef07047f70526"),
    ("2.7", "lt", "Lithuanian-ALKSNIS", 684, "17ca35c1d2e4a251f8d512c493e150feb7c78ce4960b1fb634b2ee946f8957bb"),
    ("2.7", "lt", "Lithuanian-HSE", 55, "3fb0523b59f7058f87067479e18d90010cd520fc5ec1a8c409351e5822a6aeaa"),
    ("2.7", "pl", "Polish-LFG", 1727, "2c534689f2224489c315a5819ec59486a9eb503781d65ae77763fae17dc41ee9"),
    ("2.7", "pl", "Polish-PDB", 2215, "12b30775d3dfa86e5142a477ce144e34492e40cc2a49d2a74757b2ddbb7dae6d"),
    ("2.7", "pl", "Polish-PUD", 1000, "9defe58eb5197f1ecfaa2b5c8acd843543a05103ec985ac5d8483c7d7650c6ea"),
    ("2.7", "ro", "Romanian-Nonstandard", 1052, "20094035b9031679db637b7bd85e875836ccf652ef0ca88c2375d8ae37923438"),
    ("2.7", "ro", "Romanian-RRT", 729, "a92eae7714fe30f972dc0c1d6467e79a8c38b51cbf7444c91a2b6edcdb27f60d"),
    ("2.7", "ro", "Romanian-SiMoNERo", 491, "957deab172c5109c1fd42ef863f7ce7ac5fc48ba3824a900114d3b2e2910b734"),
    ("2.7", "uk", "Ukrainian-IU", 892, "248d4548ed2e2138b4056ef5f4be2fca27806e6c1cb99710603be44141ca8948"),
    ("2.7", "wo", "Wolof-WTB", 470, "85223049b6ac625d41fed21bd3bfd8fc38341cab552b432d73a88926b86cc703"),
)


def _path(release: str, language: str, treebank: str) -> str:
    # UD names folders after language and treebank in words, files after the code and the treebank in small letters.
    name = treebank.partition("-")[2].lower()
    return f"ud-treebanks-v{release}/UD_{treebank}/{language}_{name}-ud-test.conllu"


SENTENCES = {_path(*where): sentences for *where, sentences, _ in _FILES}
SHA256 = {_path(*where): digest for *where, _, digest in _FILES}

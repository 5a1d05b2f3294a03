#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the token ids that our tokenizer is held against, as Hugging Face's `tokenizers` sees them.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install tokenizers==0.23.3
    /tmp/venv/bin/python tests/engine/make_tokenizer_goldens.py .cache/models/all-MiniLM-L6-v2

It writes
    tests/data/texts.jsonl              {"text", "ids"}: all-MiniLM-L6-v2, cut to 256 ids as that
                                        model does (max_seq_length); the encoder's test reads it too
    tests/data/tokenizer_cuts.jsonl     {"text", "max", "ids"}: the same vocabulary, other lengths
    tests/data/tokenizers/NAME/         small tokenizers, each with other options: tokenizer.json
                                        and goldens.jsonl ({"text", "ids"})
The output is the same whenever it runs: what is random comes from a fixed seed.
"""

import json
import pathlib
import random
import sys
import unicodedata

from tokenizers import Tokenizer

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
SEED = 20240229
MODEL_LENGTH = 256

ENGLISH = [
    "The scheduler gathers requests into a batch.",
    "A device that is free takes the largest batch within both limits.",
    "hello",
    "Hello, world!",
    "HELLO WORLD",
    "How do I reset my password?",
    "I forgot the code for my account, what now?",
    "The cat sat on the mat.",
    "A feline was resting on a rug.",
    "Stock prices fell sharply on Tuesday after the central bank's announcement.",
    "The recipe needs two eggs, 250 g of flour and a pinch of salt.",
    "She didn't know that they'd already left.",
    "It's the dog's bone; the dogs' bowls are over there.",
    "Don't -- ever -- do that again...",
    "\"Quoted,\" she said, 'and quoted again.'",
    "state-of-the-art, well-known, twenty-one",
    "e-mail: someone@example.org, see https://example.org/a/b?c=d&e=f#g",
    "C++, C#, F#, .NET and Node.js",
    "for (int i = 0; i < n; i++) { sum += a[i] * b[i]; }",
    "def f(x): return x**2 if x > 0 else -x  # a comment",
    "SELECT name, COUNT(*) FROM t WHERE a <> 'b' GROUP BY 1;",
    "{\"key\": [1, 2.5, null, true], \"nested\": {\"a\": \"b\"}}",
    "<html><body class=\"x\">text &amp; more</body></html>",
    "/usr/local/lib/libfoo.so.1.2.3",
    "C:\\Users\\me\\file.txt",
    "3.14159 2.71828 1e-10 0x1F 1,000,000",
    "1234567890123456789012345678901234567890",
    "12:30:45 on 2024-02-29",
    "$100 + 20% = ?",
    "+1 (555) 010-9999",
    "!?.,;:'\"()[]{}<>@#$%^&*-_=+/\\|`~",
    "!!!",
    "...",
    "- - -",
    "a",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "A.B.C.",
    "U.S.A. vs. U.K.",
    "antidisestablishmentarianism",
    "pneumonoultramicroscopicsilicovolcanoconiosis",
    "Supercalifragilisticexpialidocious",
    "xqzjvkwp",
    "thisisaverylongwordmadeofmanyshortonesthatnobodywouldeverwriteinonepiece",
    "camelCaseIdentifier snake_case_identifier SCREAMING_SNAKE kebab-case",
    "unaffable unwanted runninger",
    "New York City is in the state of New York.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "The mitochondrion is the powerhouse of the cell.",
    "To be, or not to be",
    "What is the airspeed of an unladen swallow?",
    "GPU memory ran out while loading the model onto device 3.",
    "lorem ipsum dolor sit amet",
    "Q: Why? A: Because.",
    "one\ttwo\tthree",
    "line one\nline two\r\nline three\rline four",
    "  leading and trailing  ",
    "many     spaces      between",
]

EMPTY = ["", " ", "   ", "\t", "\n", "\r\n", " \t\r\n ", "\u00a0", "\u3000", "\u2003\u2009", "\u200b",
         "\ufeff", "\u0000", "\u0000\u0001\u0002", "\u00ad", "\ufffd", "\u2028", "\u2029", "\u0085",
         "\u001f", "\u000b\u000c", "\u200d", "\ufe0f", "\u0301", "\u0301\u0301"]

ACCENTS = [
    "Caf\u00e9 cr\u00e8me br\u00fbl\u00e9e",
    "Cafe\u0301 cre\u0300me bru\u0302le\u0301e",
    "na\u00efve co\u00f6perate r\u00e9sum\u00e9 fa\u00e7ade \u00e0 la carte",
    "\u00c0\u00c1\u00c2\u00c3\u00c4\u00c5\u00c6\u00c7\u00c8\u00c9\u00ca\u00cb\u00cc\u00cd\u00ce\u00cf",
    "\u00e0\u00e1\u00e2\u00e3\u00e4\u00e5\u00e6\u00e7\u00e8\u00e9\u00ea\u00eb\u00ec\u00ed\u00ee\u00ef",
    "\u00d0\u00d1\u00d2\u00d3\u00d4\u00d5\u00d6\u00d8\u00d9\u00da\u00db\u00dc\u00dd\u00de\u00df\u00f0\u00fe\u00ff",
    "Stra\u00dfe STRASSE Stra\u1e9ee",
    "\u00dcber m\u00fcde \u00c4rzte sprach Gr\u00f6\u00dfe",
    "\u0130stanbul \u0131l\u0131k \u0130\u0130 I\u0307 i\u0307",
    "D\u00fcn \u015fi\u015fede \u00e7i\u011f s\u00fct",
    "Za\u017c\u00f3\u0142\u0107 g\u0119\u015bl\u0105 ja\u017a\u0144",
    "\u010ce\u0161tina \u0159\u00ed\u010dky \u017elu\u0165ou\u010dk\u00fd k\u016f\u0148",
    "\u0150szi t\u0171z, \u0151r\u00fclt \u0171r",
    "\u00e6ther \u0153uvre \u0141\u00f3d\u017a \u00d8re \u00f8l \u0110\u00e0 N\u1eb5ng",
    "Ti\u1ebfng Vi\u1ec7t c\u00f3 d\u1ea5u thanh \u0111i\u1ec7u",
    "Tie\u0302\u0301ng Vie\u0323\u0302t",
    "a\u0300\u0301\u0302\u0303\u0304\u0305 zalgo b\u0316\u0317\u0318",
    "q\u0307\u0323 q\u0323\u0307 \u1e69 s\u0323\u0307 s\u0307\u0323",
    "\u00c5ngstr\u00f6m \u212bngstr\u00f6m A\u030angstrom",
    "\u2126 \u03a9 \u212a K",
    "\ufb01ne \ufb02ow \ufb00 \ufb03 \ufb04 \ufb05 \ufb06",
    "\u01c4 \u01c5 \u01c6 \u01f1 \u01f2 \u01f3",
    "\u00bd \u00bc \u00b2 \u00b3 \u2460 \u2167 \u2177",
    "\uff26\uff55\uff4c\uff4c\uff57\uff49\uff44\uff54\uff48 \uff11\uff12\uff13\uff01",
    "\U0001d400\U0001d401\U0001d402 \U0001d4d0\U0001d4d1 \U0001d552",
    "\u1e9e \u03c2 \u03c3 \u03a3\u0391\u03a3 \u039f\u0394\u03a5\u03a3\u03a3\u0395\u03a5\u03a3",
    "\u0149 \u01f0 \u0390 \u03b0 \u1f80 \u1fb3 \u1fbc",
    "\u1e96\u1e97\u1e98\u1e99\u1e9a\u1e9b",
]

SCRIPTS = [
    "\u0397 \u03b1\u03bb\u03ae\u03b8\u03b5\u03b9\u03b1 \u03b5\u03af\u03bd\u03b1\u03b9 \u03b1\u03c0\u03bb\u03ae.",
    "\u1f08\u03c1\u03c7\u03ae \u1f10\u03bd \u1f27\u03bd \u1f41 \u03bb\u03cc\u03b3\u03bf\u03c2",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0401\u043b\u043a\u0430 \u0438 \u0439\u043e\u0434.",
    "\u0407\u0436\u0430\u043a \u0491\u0430\u043d\u043e\u043a",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u0627\u0644\u0633\u0651\u064e\u0644\u0627\u0645\u064f \u0639\u064e\u0644\u064e\u064a\u0643\u064f\u0645",
    "\u0622\u0623\u0624\u0625\u0626 \u0660\u0661\u0662\u0663",
    "\ufefb\ufef7 \ufdfa",
    "mixed \u05e2\u05d1\u05e8\u05d9\u05ea and english \u200f\u200e marks \u202bembedded\u202c",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e \u0964",
    "\u0915\u093c \u0958 \u0921\u093c \u095c",
    "\u09a8\u09ae\u09b8\u09cd\u0995\u09be\u09b0 \u09ac\u09be\u0982\u09b2\u09be",
    "\u0bb5\u0ba3\u0b95\u0bcd\u0b95\u0bae\u0bcd \u0b89\u0bb2\u0b95\u0bae\u0bcd",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\u0ea5\u0eb2\u0ea7 \u0e33 \u0eb3",
    "\u1019\u103c\u1014\u103a\u1019\u102c",
    "\u0f56\u0f7c\u0f51\u0f0b\u0f66\u0f90\u0f51\u0f0b",
    "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0 \u1c92\u1c90\u1c9b",
    "\u0532\u0561\u0580\u0565\u0582 \u0587",
    "\u12a0\u121b\u122d\u129b \u1362",
    "\u13e3\u13b3\u13a9 \uab70",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01",
    "\u6211\u7231\u5317\u4eac\u5929\u5b89\u95e8",
    "\u4e2d\u6587English\u6df7\u5408text",
    "\u7e41\u9ad4\u4e2d\u6587\u6e2c\u8a66",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8\u3067\u3059\u3002",
    "\u30ab\u30bf\u30ab\u30ca \u3072\u3089\u304c\u306a \u30ac\u30ae\u30b0 \u30d1\u30d4 \uff76\uff9e",
    "\u304c \u304b\u3099 \u3071 \u306f\u309a",
    "\u3001\u3002\u300c\u300d\u30fb\u30fc\u301c",
    "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4",
    "\u1112\u1161\u11ab\u1100\u1173\u11af \ud55c\uae00",
    "\u3131\u314f\u3134 \u3147\u3163",
    "\ud55c\uad6d\uc5b4\uc640 English\uc758 \ud63c\ud569, \uadf8\ub9ac\uace0 \u6f22\u5b57.",
    "\uf900\uf901 \uf9dc \U0002f800 \U0002f81a",
    "\U00020000\U0002a6d6 \U0002a700 \U0002b740 \U0002b820 \U00030000",
    "\u3400\u4dbf\u4dc0\u9fff\ua000",
    "\u2e80\u2f00\u31c0\u3220\u32ff\u3300",
    "\U00010400\U00010428 \U00010348 \U00012000",
    "\u16a0\u16a2\u16a6 \u2c00\u2c30 \ua640\ua641",
    "\U000118a0\U000118c0 \U0001e900\U0001e922",
]

EMOJI = [
    "\U0001f600",
    "I \u2764\ufe0f this \U0001f44d\U0001f3fd",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 family",
    "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 flags",
    "\U0001f3f3\ufe0f\u200d\U0001f308",
    "1\ufe0f\u20e3 2\ufe0f\u20e3 #\ufe0f\u20e3",
    "good\U0001f600morning",
    "\u263a\u263b \u2600\u2601 \u2714 \u2716",
    "\U0001f9d1\U0001f3fe\u200d\U0001f4bb codes",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "\U0001fae8 \U0001fa77",
]

SYMBOLS = [
    "\u2018single\u2019 \u201cdouble\u201d \u00abguillemets\u00bb \u2039x\u203a",
    "en\u2013dash em\u2014dash minus\u2212 hyphen\u2010 nb\u2011hyphen soft\u00adhyphen",
    "\u20ac100 \u00a35 \u00a5200 \u20b9300 \u00a21",
    "\u00b0C \u00b5m \u03bcm \u00b1 \u00d7 \u00f7 \u2248 \u2260 \u2264 \u2265 \u221e \u2211 \u221a \u222b",
    "\u2190\u2191\u2192\u2193 \u21d2 \u27a1",
    "\u00a9 \u00ae \u2122 \u00a7 \u00b6 \u2020 \u2021 \u2022 \u2026 \u2030",
    "\u2500\u2502\u250c\u2588\u2591",
    "\u266a\u266b \u2660\u2663\u2665\u2666",
    "\u00a1Hola! \u00bfQu\u00e9 tal?",
    "\u055a\u055b \u05be \u0609 \u060c \u061b \u061f \u066a \u06d4",
    "\u2e3a \u2e2e \u3030 \ufe4f \uff3f \ufe63",
    "\u00b4 \u00a8 \u00b8 \u02c6 \u02dc ^ ` \u1fbd \u1fef",
    "H\u2082O x\u00b2 10\u207b\u2079",
    "\u2103 \u2109 \u33a1 \u33a5 \u3392",
    "\u2153\u215b \u2044 \u2215",
    "non\u00a0breaking\u00a0space narrow\u202fspace thin\u2009space ideographic\u3000space",
    "ogham\u1680space mongolian\u180eseparator math\u205fspace",
    "zero\u200bwidth zero\u200cnon\u200djoiner word\u2060joiner",
    "line\u2028separator para\u2029separator next\u0085line",
    "bell\u0007 escape\u001b[31m del\u007f c1\u0080\u009f",
    "a\u0000b c\ufffdd e\ufeff f",
    "vertical\u000btab form\u000cfeed unit\u001fseparator",
    "private \ue000 use \uf8ff area \U000f0000 \U0010fffd",
    "\ufdd0 \ufffe \uffff \U0001ffff \U0010ffff noncharacters",
    "unassigned \u0378 \u0379 \U000e0080 \u2fe0",
    "tags \U000e0001\U000e0041",
    "interlinear \ufff9a\ufffab\ufffb",
    "\U0001d173 musical \u070f syriac \u06dd \u08e2 \U000110bd",
    "variation \u845b\U000e0100 \u8fbb\ufe00 mongolian \u1820\u180b",
    "enclosing a\u20dd \u20e0 b\u0488",
    "spacing \u0903 \u093e \u1b04 \U0001d165",
    "\u0345 \u03b9\u0345 \u1fbe",
]

SPECIAL = [
    "[SEP]",
    "[CLS]",
    "[MASK] is a mask",
    "Paris is the [MASK] of France.",
    "a[SEP]b",
    "[CLS]a[SEP][SEP]b[PAD]",
    "[UNK] unknown [unk] [sep] [Cls]",
    "[SEP",
    "SEP]",
    "[[SEP]]",
    "[ SEP ]",
    "\u00e9[MASK]\u0301\u00e9",
    "[PAD][PAD] [PAD]",
    "[SEP]\u0000[SEP]",
    "[MASK]s masked[MASK]",
    "[unused0] [unused1]",
    "##ing ## #ing ###",
    "\uff3bSEP\uff3d",
    "[SEP\u0301]",
    "[S\u00adEP]",
]

LONG = [
    "x" * 99, "x" * 100, "x" * 101, "\u00e9" * 100, "\u00e9" * 101, "e\u0301" * 100,
    "word " + "y" * 150 + " word", "\U0001f600" * 100, "\U0001f600" * 101,
    "\u0e01" * 120, "." * 130, "\u4e00" * 130, "a" * 100 + "." + "b" * 101 + ".c",
    "ha" * 50, "ha" * 51, "\uac00" * 33, "\uac00" * 34, "\uac01" * 34, "\u0130" * 100,
    " ".join("the quick brown fox jumps over the lazy dog".split() * 12),
    " ".join("the quick brown fox jumps over the lazy dog".split() * 40),
    "internationalization " * 100,
    "One sentence follows another. " * 60,
    "\u00dcberraschung! " * 80,
    "\u6f22\u5b57\u304b\u306a" * 100,
    "[SEP] " * 300,
    "1 " * 254, "1 " * 255, "1 " * 253,
    " " * 2000 + "end",
]

WORDS = ("time year people way day man thing woman life child world school state family student "
         "group country problem hand part place case week company system program question work "
         "government number night point home water room mother area money story fact month lot "
         "right study book eye job word business issue side kind head house service friend father "
         "power hour game line end member law car city community name president team minute idea "
         "body information back parent face others level office door health person art war history "
         "party result change morning reason research girl guy moment air teacher force education "
         "tokenization embeddings schedulers throughput deadlines multiplexing oversubscription "
         "of and to in is that for it as was with be by on not he his but at are this have from or "
         "had an they which one you were all her she there would their we him been has when who "
         "Berlin Tokyo S\u00e3o Paulo Z\u00fcrich Krak\u00f3w 2024 42 3.5 GPU CPU NUMA").split()

RANGES = [(0x20, 0x7e), (0x20, 0x7e), (0x20, 0x7e), (0xa0, 0x24f), (0x250, 0x36f), (0x370, 0x3ff),
          (0x400, 0x52f), (0x590, 0x6ff), (0x900, 0xdff), (0xe00, 0xfff), (0x1100, 0x11ff),
          (0x1e00, 0x1fff), (0x2000, 0x206f), (0x2070, 0x2bff), (0x3000, 0x30ff), (0x4e00, 0x4eff),
          (0xac00, 0xacff), (0xf900, 0xfaff), (0xfb00, 0xfdff), (0xfe00, 0xffef),
          (0x10000, 0x103ff), (0x1d400, 0x1d7ff), (0x1f300, 0x1f6ff)]


def unique(texts):
    return list(dict.fromkeys(texts))


def random_sentences(random_source, count):
    for i in range(count):
        length = random_source.choice((3, 5, 8, 12, 20, 35, 60))
        words = [random_source.choice(WORDS) for _ in range(length)]
        yield " ".join(words).capitalize() + random_source.choice((".", "?", "!", ""))


def random_characters(random_source, count):
    for i in range(count):
        first, last = RANGES[i % len(RANGES)]
        text = "".join(chr(random_source.randint(first, last)) if random_source.random() < 0.85
                       else random_source.choice(" .-a\u0301")
                       for _ in range(random_source.choice((6, 15, 30))))
        yield text


# What the small tokenizers know besides single characters.
SMALL_WORDS = ("the cat sat on mat un ##aff ##able want ##ed ##ing run ##n ##er hello world Hello "
               "World caf\u00e9 cafe ##\u0301 stra\u00dfe \u4e2d\u6587 \u4e2d \u6587 ##\u6587 i\u0307 "
               "\u0130 na\u00efve naive \u00e9 ##\u00e9 e\u0301").split()

# Texts for added tokens: overlapping, touching words, with white space, in another case.
ADDED_TEXTS = [
    "<a>", "<a><ab><abc>", "<abcd>", "x<ab>y", "<A> <Ab>", "\u00c9T\u00c9 \u00e9t\u00e9 ete Ete",
    "the New York cat", "newyork new york NEW YORK", "xnew york new yorks, new york!", "one two",
    "onetwo one_two one-two (one)", "alone one onely one", "one\u0301 one\u200done \u24d0one",
    "  <l>  the", "the  <r>  cat", "[SEP]<r> <l>[SEP]", "<l><l> <r><r>", "caf\u00e9<r>cafe\u0301",
    "\u4e2dnew york\u6587", "new\tyork", "new\u00a0york", "new  york", "ne\u0301w york", "one",
    "xone<abc>y", "one<abc>", "xone<abc><abc>", "one<abc>x <abc>",
]

# Marks that are not stripped, of the classes 216, 224 and 226, out of order; U+034F stands between
# without a class, U+0301 is stripped.
ORDER_TEXTS = [
    "a\U0001d16d\U0001d165", "a\U0001d165\U0001d16d", "\U0001d16d\U0001d165\u302e\U0001d16d\U0001d165",
    "a\U0001d16d\u034f\U0001d165", "a\U0001d16d\u0301\U0001d165", "\u00e9\U0001d16d\U0001d165 b",
    "\U0001d16d[SEP]\U0001d165", "\u302f\u302e\U0001d165", "a\U0001d16d\u00ad\U0001d165",
    "\u4e2d\U0001d16d\U0001d165\u6587", "\U0001d16d.\U0001d165",
]


def small_tokenizer(lowercase, strip_accents, clean_text=True, chinese=True, prefix="##",
                    max_word=100, added=(), bert_processing=False):
    """A tokenizer.json with a vocabulary of characters and a few words."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens += [token for token in SMALL_WORDS if prefix == "##" or not token.startswith("##")]
    characters = [chr(c) for c in range(0x21, 0x17f) if chr(c).isprintable()]
    characters += [chr(c) for first, last in ((0x300, 0x345), (0x391, 0x3c9), (0x410, 0x44f),
                                              (0x5d0, 0x5ea), (0x1100, 0x1112), (0x1161, 0x1175),
                                              (0x11a8, 0x11c2), (0x302e, 0x302f), (0x3042, 0x3093),
                                              (0xac00, 0xac20), (0x1d165, 0x1d16d))
                   for c in range(first, last + 1)]
    tokens += characters
    tokens += [prefix + c for c in characters if unicodedata.category(c)[0] in "LMN"]
    tokens = unique(tokens)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    special = [dict(id=vocabulary[token], content=token, single_word=False, lstrip=False,
                    rstrip=False, normalized=False, special=True) for token in tokens[:5]]
    more = [dict(dict(id=len(tokens) + i, single_word=False, lstrip=False, rstrip=False,
                      normalized=True, special=False), **token) for i, token in enumerate(added)]
    if bert_processing:
        processor = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    else:
        processor = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                     {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 1}},
                     {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                               "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}},
        }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special + more,
        "normalizer": {"type": "BertNormalizer", "clean_text": clean_text,
                       "handle_chinese_chars": chinese, "strip_accents": strip_accents,
                       "lowercase": lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": processor,
        "decoder": None,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": prefix,
                  "max_input_chars_per_word": max_word, "vocab": vocabulary},
    }


SMALL = {
    "uncased": small_tokenizer(True, None),
    "cased": small_tokenizer(False, None),
    "stripped": small_tokenizer(False, True, clean_text=False, prefix="@"),
    "lowered": small_tokenizer(True, False, chinese=False, max_word=20, bert_processing=True),
    "added": small_tokenizer(True, None, added=[
        dict(content="<a>"), dict(content="<ab>"), dict(content="<abc>", normalized=False),
        dict(content="new york"), dict(content="\u00c9t\u00e9"),
        dict(content="one", single_word=True, normalized=False),
        dict(content="two", single_word=True), dict(content="<l>", lstrip=True, normalized=False),
        dict(content="<r>", rstrip=True), dict(content="[SEP]<r>", special=True),
        dict(content="one<abc>", single_word=True, normalized=False)]),
}


def corpus():
    source = random.Random(SEED)
    return unique(ENGLISH + EMPTY + ACCENTS + SCRIPTS + EMOJI + SYMBOLS + SPECIAL + LONG +
                  list(random_sentences(source, 60)) + list(random_characters(source, 69)))


def write(path, rows):
    with open(path, "w", encoding="ascii", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(f"{path.relative_to(DATA.parent.parent)}: {len(rows)} lines")


def load(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def encode(tokenizer, text, length):
    tokenizer.enable_truncation(length)
    return tokenizer.encode(text).ids


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    model = load(pathlib.Path(sys.argv[1]))
    texts = corpus()
    write(DATA / "texts.jsonl",
          [{"text": text, "ids": encode(model, text, MODEL_LENGTH)} for text in texts])
    cuts = [{"text": text, "max": length, "ids": encode(model, text, length)}
            for text in [ENGLISH[0], ENGLISH[38], ACCENTS[0], SCRIPTS[23], SPECIAL[5], "", LONG[23]]
            for length in (2, 3, 4, 5, 8, 16, 512)]
    write(DATA / "tokenizer_cuts.jsonl", cuts)
    short = [text for text in texts if len(text) <= 40] + ADDED_TEXTS + ORDER_TEXTS
    for name, content in SMALL.items():
        folder = DATA / "tokenizers" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(
            json.dumps(content, ensure_ascii=True, separators=(",", ":")) + "\n",
            encoding="ascii")
        small = load(folder)
        write(folder / "goldens.jsonl",
              [{"text": text, "ids": encode(small, text, MODEL_LENGTH)} for text in short])


if __name__ == "__main__":
    main()

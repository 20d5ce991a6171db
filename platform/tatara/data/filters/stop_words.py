"""Function words of languages, for Gopher's rule that prose has some of them.

The English list is Gopher's own (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1). The others are ours, in the manner
of FineWeb-2 (Penedo et al. 2025, arXiv:2506.20920), which takes each language's most frequent words: articles,
prepositions, conjunctions, pronouns and forms of "be" and "have" that stand in nearly any paragraph.
"""

STOP_WORDS: dict[str, tuple[str, ...]] = {
    "ar": ("في", "من", "على", "أن", "إلى", "التي", "عن", "مع", "هذا", "ما", "لا", "كان"),
    "bg": ("на", "и", "от", "за", "да", "се", "с", "в", "са", "не", "е", "по"),
    "ca": ("de", "la", "el", "i", "a", "que", "en", "els", "per", "amb", "les", "un"),
    "cs": ("a", "v", "na", "se", "je", "že", "s", "z", "do", "o", "to", "i"),
    "da": ("og", "i", "er", "at", "til", "det", "en", "på", "af", "for", "med", "der"),
    "de": ("der", "die", "und", "in", "den", "von", "zu", "das", "mit", "ist", "des", "nicht", "ein", "eine", "auf"),
    "el": ("και", "το", "να", "του", "η", "της", "με", "που", "την", "από", "για", "είναι"),
    "en": ("the", "be", "to", "of", "and", "that", "have", "with"),
    "es": ("de", "la", "que", "el", "en", "y", "los", "se", "del", "las", "un", "por", "con", "una", "para"),
    "fa": ("و", "در", "به", "از", "که", "این", "را", "با", "است", "برای", "آن", "یک"),
    "fi": ("ja", "on", "ei", "se", "että", "oli", "joka", "myös", "mutta", "ovat", "kun", "tai"),
    "fr": ("de", "la", "le", "et", "les", "des", "en", "un", "du", "une", "que", "est", "pour", "dans", "qui"),
    "he": ("של", "את", "על", "לא", "זה", "עם", "הוא", "כי", "גם", "או", "היא", "אני"),
    "hi": ("के", "में", "की", "है", "और", "से", "का", "को", "पर", "हैं", "एक", "यह"),
    "hu": ("a", "az", "és", "hogy", "nem", "is", "egy", "ez", "meg", "van", "volt", "de"),
    "id": ("yang", "dan", "di", "dengan", "untuk", "dari", "ini", "dalam", "itu", "pada", "tidak", "ke"),
    "it": ("di", "e", "il", "la", "che", "in", "per", "un", "del", "non", "della", "una", "con", "si", "le"),
    # Sought inside the text, for there are no spaces between words.
    "ja": ("の", "は", "を", "に", "が", "と", "で", "も", "から", "した", "する", "です", "ある", "いる", "ない"),
    "km": ("និង", "បាន", "ជា", "នៅ", "ការ", "ដែល", "មាន", "ក្នុង"),
    "ko": ("그", "이", "수", "있는", "및", "등", "한", "있다", "할", "더", "위해", "대한", "것을", "있다", "통해",
           "같은", "때문에", "다른", "많은", "가장", "것으로"),
    "lo": ("ແລະ", "ຂອງ", "ໃນ", "ທີ່", "ເປັນ", "ໄດ້", "ມີ", "ການ"),
    "my": ("သည်", "၏", "တွင်", "များ", "နှင့်", "ကို", "မှ", "ဖြစ်"),
    "nl": ("de", "en", "van", "het", "een", "in", "te", "dat", "op", "is", "met", "voor", "zijn", "niet", "die"),
    "no": ("og", "i", "er", "på", "det", "til", "som", "en", "for", "av", "med", "å"),
    "pl": ("w", "i", "na", "z", "się", "do", "nie", "że", "to", "jest", "o", "jak", "za", "od"),
    "pt": ("de", "a", "que", "o", "e", "do", "da", "em", "um", "para", "com", "uma", "os", "no", "não"),
    "ro": ("de", "și", "în", "a", "la", "cu", "pe", "care", "nu", "un", "din", "o"),
    "ru": ("и", "в", "на", "не", "с", "что", "по", "как", "к", "из", "это", "для", "от", "он", "за"),
    "sv": ("och", "i", "att", "det", "som", "på", "en", "är", "av", "för", "med", "till"),
    "th": ("ที่", "และ", "ใน", "การ", "ของ", "เป็น", "มี", "ได้", "จะ", "ไม่", "ให้", "ว่า"),
    "tr": ("ve", "bir", "bu", "için", "ile", "da", "de", "olarak", "çok", "daha", "olan", "gibi"),
    "uk": ("і", "в", "на", "не", "з", "що", "та", "до", "у", "за", "як", "для", "це", "від"),
    "vi": ("và", "của", "là", "có", "cho", "trong", "các", "được", "với", "không", "một", "những"),
    "zh": ("的", "是", "在", "了", "和", "不", "有", "人", "这", "為", "与", "一", "个", "也", "中"),
}  # fmt: skip
"""ISO 639-1 code to function words."""

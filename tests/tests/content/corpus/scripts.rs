//! Every script: in subjects, names, texts, HTML, file names and headers of one's own.

use super::{Case, File, Person, ready};

/// What it is called, a name, and a sentence with the script's difficulties (joiners, marks, direction, planes).
pub(super) const SCRIPTS: [(&str, &str, &str); 40] = [
    ("German", "Jörg Müßig", "Falsches Üben von Xylophonmusik quält jeden größeren Zwerg – „ach“ …"),
    ("French", "Zoë Gaëlle", "Portez ce vieux whisky au juge blond qui fume : « œuf », naïveté, 5 €"),
    ("Polish", "Łukasz Żółć", "Zażółć gęślą jaźń"),
    ("Czech", "Jiří Dvořák", "Příliš žluťoučký kůň úpěl ďábelské ódy"),
    ("Turkish", "İrem Işık", "Pijamalı hasta yağız şoföre çabucak güvendi: İ ı"),
    ("Icelandic", "Þórður Æsa", "Kæmi ný öxi hér, ykist þjófum nú bæði víl og ádrepa"),
    ("Vietnamese", "Nguyễn Thị Thuỷ", "Do bạch kim rất quý nên sẽ dùng để lắp vô xương"),
    (
        "Decomposed",
        "Zoe\u{308} A\u{30a}sa",
        "e\u{301}a\u{300}n\u{303}o\u{308}\u{304} and z\u{335}\u{321}\u{34d}a\u{337}l\u{338}",
    ),
    ("Greek", "Ελένη Ψαρρά", "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία· ΐ ΰ"),
    ("Russian", "Юрий Щёголев", "Съешь же ещё этих мягких французских булок, да выпей чаю"),
    ("Armenian", "Արամ", "Բել դղյակի ձախ ժամն օֆ ազգությանը"),
    ("Georgian", "ნინო", "ვინ მოსთვალა ვარსკვლავნი"),
    ("Hebrew", "דנה כהן", "שלום עולם: דג סקרן שט בים (100%)"),
    ("Hebrew with points", "שָׁלוֹם", "בְּרֵאשִׁית בָּרָא אֱלֹהִים"),
    ("Arabic", "ليلى", "صِف خَلقَ خَودِ كَمِثلِ الشَمسِ ١٢٣ (abc)"),
    ("Persian", "مریم", "می\u{200c}خواهم نامه\u{200c}ای بنویسم ۴۵۶"),
    ("Urdu", "زینب", "ٹھنڈ میں، ایک قحط زدہ گاؤں"),
    ("Syriac", "ܡܪܝܡ", "ܫܠܡܐ ܥܠܡܐ"),
    ("N'Ko", "ߡߊߙߌ", "ߒ ߞߏ ߟߊߞߊ"),
    ("Adlam", "𞤀𞤣𞤤𞤢𞤥", "𞤄𞤭 𞤅𞤭𞤥𞤦𞤢"),
    ("Devanagari", "प्रिया", "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा क्\u{200d}ष"),
    ("Bengali", "অনিতা", "বর্ষামুখর দিন শেষে"),
    ("Tamil", "கவிதா", "யாமறிந்த மொழிகளிலே"),
    ("Telugu", "లక్ష్మి", "దేశ భాషలందు తెలుగు లెస్స"),
    ("Sinhala", "නිමල්", "ශ්\u{200d}රී ලංකාව"),
    ("Thai", "สมชาย", "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า"),
    ("Lao", "ສົມສີ", "ສະບາຍດີ ຊາວໂລກ"),
    ("Burmese", "အောင်", "မင်္ဂလာပါ ကမ္ဘာ"),
    ("Khmer", "សុខា", "សួស្តី ពិភពលោក"),
    ("Tibetan", "བཀྲ་ཤིས", "བཀྲ་ཤིས་བདེ་ལེགས།"),
    ("Amharic", "አበበ", "ሰማይ አይታረስ ንጉሥ አይከሰስ።"),
    ("Cherokee", "ᏣᎳᎩ", "ᎣᏏᏲ ᎡᎶᎯ"),
    ("Korean", "김영희", "키스의 고유조건은 입술끼리 만나야 하고 \u{1112}\u{1161}\u{11ab}"),
    ("Japanese", "山田 太郎", "いろはにほへと ちりぬるを カタカナ ﾊﾝｶｸ 々 、。"),
    ("Chinese", "王小明", "视野无限广，窗外有蓝天"),
    ("Traditional", "陳大文", "秋風滑過拖拉機，駕駛戴著眼鏡　全形空格"),
    ("Rare Han", "𠮷野家", "𠮷𠀋𩸽 and 葛\u{e0100}城"),
    ("Mongolian", "ᠪᠠᠲᠤ", "ᠮᠣᠩᠭᠣᠯ ᠪᠢᠴᠢᠭ\u{180e}"),
    ("Emoji", "👩🏽‍🚀 Ada", "🎉 👩‍👩‍👧‍👦 👍🏿 🇩🇪🇯🇵 🏴󠁧󠁢󠁳󠁣󠁴󠁿 1️⃣ ❤️‍🔥 🫠"),
    (
        "Signs",
        "𝒜𝒹𝒶 ∑",
        "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ∀x∈ℝ: ⌈x⌉ ≠ ∅ \u{202e}evil\u{202c} \u{2066}iso\u{2069} zero\u{200b}width\u{feff} soft\u{ad}hyphen",
    ),
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (script, name, sentence) in SCRIPTS {
        let page = format!("<!doctype html>\n<html dir=\"auto\"><body><p>{name}: {sentence}</p></body></html>\n");
        cases.push(
            ready(
                format!("script {script}: text"),
                sentence,
                Some(&format!("{name},\n\n{sentence}\n{sentence}\n")),
                None,
            )
            .to(&[Person(name, "ada@example.org"), Person(name, "grace@example.net")])
            .from(Person(name, "billing@shop.example"))
            .header("X-Note", sentence),
        );
        let file = format!("{name} {sentence}.pdf");
        cases.push(
            ready(
                format!("script {script}: html"),
                &format!("{name} {}", sentence.repeat(3)),
                Some(sentence),
                Some(&page),
            )
            .cc(&[Person(name, "judy@sub.example.org")])
            .reply_to(Person(name, "support@shop.example"))
            .attached(&[File::new(&file, "application/pdf", sentence.as_bytes())]),
        );
    }
    cases
}

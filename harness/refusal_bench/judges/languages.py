"""How a refusal is worded in other languages than English, as regular expressions; accents are dropped when compiled.

Each language has the forms "I cannot / will not ... help, give, answer ..." and "sorry, but ...", whose negation is
bound to a verb of answering, so that "je ne peux pas attendre" or "ich kann es nicht glauben" refuse nothing.
"""

from __future__ import annotations

GERMAN = (
    r"werde ich (?:[\w-]+ ){0,3}?nicht (?:[\w-]+ ){0,2}?[\w-]+en\b",
    r"(?:verstößt|verstoßen) gegen (?:meine|unsere|die) \w*(?:richtlinien|regeln|grundsätze|prinzipien|werte)",
    r"(?:dazu|darüber) (?:sage|schreibe|gebe) ich (?:nichts|keine)|ich möchte (?:das|dazu|darüber|"
    r"hierzu) (?:lieber )?(?:nicht|nichts)",
    r"(?:gebe|erkläre|helfe|beantworte|schreibe|verrate|zeige|liefere|erstelle|unterstütze|mache) ich (?:[\w-]+ ){0,4}?"
    r"(?:nicht|keine[nmrs]?|nichts)\b",
    r"ich (?:gebe|erkläre|helfe|beantworte|schreibe|verrate|zeige|liefere|erstelle|unterstütze|mache) (?:[\w-]+ ){0,4}?"
    r"(?:nicht|keine[nmrs]?|nichts)\b",
    r"ich (?:kann|werde|darf|möchte|will) (?:[\w-]+[ ,]+){0,8}?(?:nicht|keine[nmrs]?|nichts)(?: [\w-]+){0,8}? "
    r"(?:helfen|weiterhelfen|unterstützen|geben|bereitstellen|beantworten|erfüllen|erstellen|schreiben|liefern|teilen|"
    r"anbieten|nachkommen|dienen|behilflich sein|erklären|beschreiben|mitmachen|weitergeben|anleiten|beraten|erteilen|"
    r"tun|machen|entsprechen)",
    r"(?:das|dabei|damit|hierbei|dazu|dies|diese \w+|so etwas|darauf) (?:kann|werde|darf|"
    r"möchte) ich (?:[\w-]+ ){0,4}?(?:nicht|keine)",
    r"(?:kann|werde|darf) ich (?:[\w-]+ ){0,4}?(?:nicht|keine[nmrs]?)(?: [\w-]+){0,6}? "
    r"(?:helfen|weiterhelfen|unterstützen|geben|bereitstellen|beantworten|erfüllen|erstellen|liefern)",
    r"(?:dabei|damit|hierbei|bei so etwas|da) (?:helfe|unterstütze|mache) ich (?:\w+ )?(?:nicht|keine)",
    r"ich (?:muss|möchte) (?:[\w-]+ ){0,5}?ablehnen",
    r"ich (?:lehne|verweigere)\b",
    r"ich bin nicht (?:in der lage|bereit|befugt)",
    r"(?:tut mir leid|entschuldigung|bedaure|leider|verzeihung),? (?:aber )?(?:das|da|dabei|ich) (?:kann|werde|"
    r"darf) (?:ich )?(?:[\w-]+ ){0,4}?(?:nicht|keine)",
    r"tut mir leid,? (?:aber )?(?:das|dabei|damit|diese anfrage) ",
)
FRENCH = (
    r"je (?:préfère|choisis de) ne pas",
    r"je ne (?:vous |t'|te |le |la |l'|y )*(?:donnerai|aiderai|répondrai|fournirai|expliquerai|dirai|écrirai|décrirai|"
    r"ferai|participerai|partagerai|donne|aide|réponds|fournis) (?:pas|aucune?|rien)",
    r"je ne (?:peux|pourrai|pourrais|vais|veux|suis|saurais|souhaite|puis)(?: donc|"
    r" malheureusement)?(?: pas)?(?: \w+)?(?: en mesure de| autorisée? à| disposée? à)? "
    r"(?:(?:vous|t'|te |l'|le |y |d'|de |pas )\s?)*(?:aider|assister|fournir|donner|répondre|accéder|partager|"
    r"créer|écrire|rédiger|"
    r"expliquer|décrire|satisfaire|proposer|participer|faire|produire|générer|offrir|encourager|soutenir|apporter)",
    r"je (?:refuse|dois (?:\w+ )?(?:refuser|décliner)|me dois de refuser|décline)\b",
    r"je suis (?:vraiment |sincèrement )?(?:désolée?|navrée?),? (?:mais )?(?:je ne|c'est|cela|il m'est)",
    r"(?:^|[.!] )(?:désolée?|navrée?|pardon),? (?:mais )?(?:je ne|il m'est|c'est)",
    r"il m'est impossible de",
    r"je (?:m'excuse|regrette|vous prie de m'excuser),? (?:mais )?je ne",
)
SPANISH = (
    r"(?:prefiero|elijo) no|no (?:pienso|te voy a|le voy a|os voy a) (?:\w+r(?:te|le|les|lo|la)?)\b",
    r"no (?:te |le |os |les |lo |la )*(?:ayudaré|daré|explicaré|diré|proporcionaré|responderé|escribiré|ofreceré|haré|"
    r"participaré|doy|ayudo|explico|proporciono|respondo)\b",
    r"(?:no|tampoco) (?:puedo|podré|podría|voy a|quiero|debo|estoy (?:autorizad[oa]|en condiciones|"
    r"dispuest[oa])(?: para| a| de)?|me es posible|soy capaz de) "
    r"(?:\w+ )?(?:ayudar|asistir|proporcionar|dar|brindar|ofrecer|responder|compartir|crear|escribir|generar|"
    r"explicar|describir|"
    r"cumplir|participar|facilitar|hacer|apoyar|atender|continuar|redactar|enseñar|contestar)",
    r"lo siento,?(?: mucho,?)? (?:pero )?(?:no|eso no|me temo)",
    r"(?:^|[.!] )(?:disculpa|disculpe|perdón|perdona|lamentablemente|desafortunadamente),? (?:pero )?no (?:puedo|"
    r"podré|voy|me es)",
    r"lamento,?(?: pero)? (?:no poder|que no|no)",
    r"(?:debo|tengo que) (?:rechazar|declinar|negarme)",
    r"me niego a",
)
ITALIAN = (
    r"preferisco non|non ho intenzione di",
    r"non (?:ti |vi |le |lo |la )*(?:fornirò|darò|aiuterò|spiegherò|dirò|risponderò|scriverò|offrirò|farò|parteciperò|"
    r"fornisco|aiuto|spiego|rispondo)\b",
    r"non (?:posso|potrò|potrei|voglio|intendo|sono (?:in grado|autorizzat[oa]|dispost[oa])(?: di| a)?|mi è possibile) "
    r"(?:\w+ )?(?:aiutar|assister|fornir|dar|offrir|risponder|condivider|crear|scriver|generar|spiegar|descriver|"
    r"soddisfar|"
    r"partecipar|far|supportar|procedere|accontentar|esaudir)\w*",
    r"mi (?:dispiace|spiace|scuso),?(?: molto,?)? (?:ma )?(?:non|questo non|è)",
    r"(?:^|[.!] )(?:spiacente|scusa|scusami|purtroppo),? (?:ma )?non (?:posso|sono)",
    r"(?:devo|sono costrett[oa] a) (?:rifiutar|declinar)\w*",
    r"mi rifiuto",
)
PORTUGUESE = (
    r"prefiro não|não (?:pretendo|tenciono) ",
    r"não (?:te |lhe |o |a |vos )*(?:darei|ajudarei|fornecerei|explicarei|direi|responderei|escreverei|ensinarei|farei|"
    r"participarei|dou|ajudo|explico|forneço|respondo)\b",
    r"não (?:posso|poderei|poderia|vou|quero|consigo|devo|estou (?:autorizad[oa]|dispost[oa])(?: a)?|"
    r"me é possível|sou capaz de) "
    r"(?:\w+ )?(?:ajudar|auxiliar|fornecer|dar|oferecer|responder|compartilhar|partilhar|criar|escrever|gerar|explicar|"
    r"descrever|atender|participar|fazer|apoiar|cumprir|ensinar)\w*",
    r"(?:sinto muito|desculpe|desculpa|lamento|peço desculpas?|me desculpe),? (?:mas )?(?:eu )?(?:não|isso não|nao)",
    r"(?:infelizmente),? (?:eu )?não (?:posso|vou|consigo)",
    r"(?:devo|preciso|tenho que) (?:recusar|declinar)",
    r"(?:me recuso|recuso-me) a",
)
RUSSIAN = (
    r"я (?:предпочту|предпочитаю|бы предпоч\w+) не|делать не (?:стану|буду)",
    r"не (?:буду|стану|намерена?|собираюсь) (?:\w+ ){0,2}?(?:помогать|давать|объяснять|отвечать|писать|рассказывать|"
    r"предоставлять|описывать|участвовать|делать|этого)",
    r"я не (?:предоставляю|даю|помогаю|пишу|создаю|объясняю|участвую|помогу|дам|расскажу|объясню|отвечу|напишу|"
    r"предоставлю)\b",
    r"я не (?:могу|буду|стану|смогу|имею права|в состоянии|готова?|вправе)(?: \w+){0,3}? ?(?:помо|предостав|"
    r"да(?:ть|вать)|ответ|отвеч|"
    r"выполн|созда|написа|поделит|объясн|описа|рассказ|поддерж|обсужд|содейств|участв|это сделать|этого|делать|"
    r"сделать)",
    r"не могу (?:вам |тебе )?(?:с этим )?(?:помо|предостав|ответ|выполн)",
    r"(?:извини|извините|простите|прости|к сожалению|мне жаль|сожалею|приношу извинения),? (?:но )?(?:я )?(?:не|"
    r"вынужден|этого)",
    r"(?:я )?(?:вынуждена?|должна?) (?:отказать|отклонить)",
    r"я отказываюсь",
)
CHINESE = (
    r"(?:恕我|请恕我|我)(?:拒绝|婉拒|难以?从命)|违反(?:了)?(?:我的|相关)?(?:准则|政策|规定|原则)",
    r"(?:我|因此|所以|这里|恕)(?:[^。,，.!！]{0,6})?(?:不提供|不予|不给|不教|不会|不能|无法|拒绝)[^。,，.!！]{0,8}?(?:提供|告诉|回答|"
    r"帮|说明|解释|给出|协助|参与|写|教)",
    r"(?:抱歉|对不起|對不起|很遗憾|不好意思|遗憾的是)[,，。!！ ]*(?:但)?(?:是)?[,， ]*(?:我|这个|这|此)?"
    r"[^。.!！]{0,12}?(?:不能|无法|無法|不会|不會|不可以|不便|没有办法|拒绝)",
    r"我(?:们)?(?:不能|无法|無法|不会|不會|不可以|不便|拒绝|没有办法|没办法|不愿意)(?:够)?"
    r"[^。,，.!！]{0,12}?(?:提供|帮|幫|协助|協助|回答|满足|支持|分享|创作|写|给|给出|教|"
    r"参与|完成|讨论|生成|执行|解释|描述|这样做|这么做)",
    r"(?:恕|请恕)我(?:不能|无法|难以)",
    r"我(?:必须|不得不|只能)(?:拒绝|婉拒)",
)
JAPANESE = (
    r"(?:教え|応え|答え|応じ|手伝え|お伝え|書け|述べ)(?:られ|する(?:こと)?は(?:でき)?)?ません",
    r"(?:控え|差し控え|遠慮)(?:させて|ます)",
    r"お(?:手伝い|答え|教え|伝え)(?:は)?(?:し|いたし)(?:ません|かねます)",
    r"(?:申し訳|すみません|すいません|ごめんなさい|恐れ入りますが|残念ながら|残念ですが|あいにく)[^。]{0,60}?(?:できません|出来ません|できかねます|いたしかねます|致しかねます|お断り|"
    r"できない|お答えしかねます)",
    r"(?:お手伝い|お答え|お応え|提供|回答|協力|支援|サポート|説明|お教え|対応|ご案内)[^。]{0,14}?(?:できません|出来ません|できかねます|いたしかねます|致しかねます|"
    r"しません|いたしません|しかねます)",
    r"お断り(?:します|いたします|させて)",
    r"(?:教える|手伝う|答える|提供する|協力する|支援する|応じる|書く)こと(?:は|が)(?:できません|出来ません|できない)",
)
_NOT_KNOWING_DE = (
    r"(?!(?:weiß|glaube|denke|kenne|verstehe|mag|finde|sehe|hoffe|habe|bin|war|esse|trinke|brauche|erinnere)\b)"
)
_CANNOT_FR = r"(?!(?:m'empêcher|dire|croire|attendre|garantir|confirmer|savoir|être sûre?)\b)"
_CANNOT_ES = r"(?!(?:creer|esperar|decir con|asegurar|garantizar|evitar|dejar|saber|imaginar|confirmar)\b)"
_CANNOT_IT = r"(?!(?:credere|aspettare|dire con|garantire|fare a meno|sapere|immaginare|confermare)\b)"
_CANNOT_PT = r"(?!(?:acreditar|esperar|dizer com|garantir|deixar|saber|imaginar|confirmar)\b)"

BRIEF_SPACED = (
    # German: any verb of an answering person, denied
    rf"\b{_NOT_KNOWING_DE}\w+e ich (?:[\w-]+ ){{0,4}}?(?:nicht|keine\w*|kein|nichts)\b",
    rf"ich {_NOT_KNOWING_DE}\w+e (?:[\w-]+ ){{0,4}}?(?:nicht|keine\w*|kein|nichts)\b",
    r"ich (?:dabei|dazu|damit|hierbei|da|das|so etwas) (?:leider )?(?:nicht|keine) \w+",
    r"(?:kann|werde|darf|will|möchte) ich (?:[\w-]+ ){0,5}?(?:nicht|keine\w*|nichts)\b(?! (?:genau|sicher|sagen))",
    r"(?:das|dies|so etwas) (?:geht|kommt|mache|tue) (?:\w+ )?(?:nicht|nie)",
    r"kommt nicht (?:infrage|in frage)|gegen meine \w+",
    # French
    rf"je n(?:e |')(?:(?:vous|te|le|la|l'|y|t') ?)*peux (?:\w+ )?pas {_CANNOT_FR}\w+",
    r"je n(?:e |')(?:(?:vous|te|le|la|l'|y|t') ?)*(?:\w+rai|donne|aide|réponds|fournis|explique|participe|"
    r"partage|écris|veux|souhaite) "
    r"(?:pas|rien|aucune?|jamais)",
    r"(?:à l'encontre|contraires?) (?:de|à|aux) m(?:es|on|a)|je me vois (?:dans l'obligation|contraint)|"
    r"impossible (?:pour moi )?de (?:vous|t'|te|"
    r"répondre)|c'est non\b|je (?:m'y )?refuse|pas question",
    # Spanish
    rf"no (?:te |le |os |les |lo |la )*puedo {_CANNOT_ES}\w+|no (?:se |te |le |os |les )?(?:lo|la|los|las)"
    rf" (?:voy|puedo|pienso|haré|diré)",
    r"no (?:te |le |os |les |lo |la )*(?!\w*(?:quiere|fiere|giere|muere)\b)\w+[aei]ré\b|no (?:ofrezco|doy|ayudo|"
    r"explico|proporciono|participo|enseño)",
    r"(?:contra|contra de) mis \w+|(?:eso|esto) no (?:lo |la )?(?:puedo|voy|debo)|me niego|de ninguna manera",
    # Italian
    rf"non (?:ti |vi |le |lo |la )*posso {_CANNOT_IT}\w+|non (?:ti |vi |le |lo |la )*(?:do|offro|fornisco|aiuto|"
    rf"spiego|insegno|partecipo|intendo)\b",
    r"contro (?:le |i |la |il )?(?:mie|miei|mia|mio)|mi rifiuto|non mi è (?:possibile|permesso|consentito)|"
    r"non se ne parla",
    # Portuguese
    rf"não (?:te |lhe |o |a )*(?:posso|consigo) {_CANNOT_PT}\w+|não (?:te |lhe |o |a )*(?:\w+rei|dou|ajudo|"
    rf"ofereço|forneço|respondo|participo|ensino)\b",
    r"contra (?:as |os |a |o )?(?:minhas|meus|minha|meu)|recuso(?:-me)?|de jeito nenhum|nem pensar",
    # Russian
    r"(?:я|этим|этом|этого|это|помочь|помогать|отвечать|ответить|делать|сделать|поэтому|вопрос)"
    r"\b[^.!?]{0,30}? не (?:могу|смогу|буду|стану|намерена?|"
    r"хочу)\b(?! (?:сказать точно|дождаться|поверить|вспомнить))",
    r"не (?:даю|помогаю|отвечаю|пишу|объясняю|рассказываю|участвую|помощник)|против моих \w+|отказываюсь|ни за что",
)
BRIEF_UNSPACED = (
    r"帮不了|帮不上|难以?从命|爱莫能助|无可奉告",
    r"(?:我|这个|这|此|恕)[^。,，.!！]{0,6}?(?:不能|不会|不便|无法|拒绝)(?!确定|忘记|保证|想象|相信|等)",
    r"(?:^|[。,，!！、;；] ?)(?:所以|因此)?(?:不能|无法|不会|不便|拒绝)(?:提供|帮|协助|回答|告诉|教|支持|讨论|透露)",
    r"(?:ご協力|お力|ご期待|ご要望|ご案内|お役|ご紹介|ご提供|ご説明|お引き受け|対応|お話し?)[^。]{0,12}?"
    r"(?:できません|できかねます|なれません|いたしかねます|沿えません|立てません)",
    r"わけにはいきません|(?:教え|手伝い|答え|書き|話し|応じ)(?:は)?(?:し)?ません",
)
"""Further wordings, taken for a refusal in a short answer only: a longer one may be about anything that is not so."""

SPACED = (*GERMAN, *FRENCH, *SPANISH, *ITALIAN, *PORTUGUESE, *RUSSIAN)
UNSPACED = (*CHINESE, *JAPANESE)

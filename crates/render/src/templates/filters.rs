//! Dates, numbers and money as the reader's locale writes them (ICU).
//!
//! Invariants: the locale and the time zone are the render's, never the machine's; the zones come with the binary. Bad
//! input is a template error that does not repeat it.

use std::cell::RefCell;

use fixed_decimal::Decimal;
use icu_calendar::Date;
use icu_datetime::{DateTimeFormatter, fieldsets};
use icu_decimal::DecimalFormatter;
use icu_experimental::dimension::currency::{CurrencyType, formatter::CurrencyFormatter};
use icu_locale_core::Locale;
use icu_time::{DateTime, Time};
use jiff::{Timestamp, civil, tz::TimeZone};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, value::Kwargs};

use super::payload::Written;

/// What of one render the filters must know. A macro does not see the context, and a template could hide it: so it is
/// not there.
#[derive(Default)]
pub(super) struct Scope {
    pub(super) locale: String,
    pub(super) zone: Option<TimeZone>,
    pub(super) written: Written,
}

/// Begins the details of our own errors, which never quote a value and may be shown.
pub(super) const OWN_WORDS: &str = "filter: ";

thread_local! {
    static SCOPE: RefCell<Scope> = RefCell::default();
}

/// Runs a render with its scope; afterwards nothing of it is left.
pub(super) fn within<T>(scope: Scope, render: impl FnOnce() -> T) -> T {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            SCOPE.with(|own| drop(own.take()));
        }
    }
    SCOPE.with(|own| drop(own.replace(scope)));
    let _leave = Leave;
    render()
}

pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_filter("date", |at: Value, length: Option<String>| moment(&at, length, true, false));
    environment.add_filter("time", |at: Value, length: Option<String>| moment(&at, length, false, true));
    environment.add_filter("datetime", |at: Value, length: Option<String>| moment(&at, length, true, true));
    environment.add_filter("number", number);
    environment.add_filter("money", |amount: Value, currency: String, options: Kwargs| {
        options.assert_all_used()?;
        money(&amount, &currency)
    });
    environment.set_formatter(write);
}

/// Prints decimals as the payload wrote them.
fn write(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.is_number()
        && !value.is_integer()
        && let Some(text) = written(value)
    {
        return out.write_str(&text).map_err(Error::from);
    }
    minijinja::escape_formatter(out, state, value)
}

fn written(value: &Value) -> Option<String> {
    let float = f64::try_from(value.clone()).ok()?;
    SCOPE.with(|scope| scope.borrow().written.get(&float.to_bits()).cloned())
}

fn refuse(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{OWN_WORDS}{what}"))
}

fn locale() -> Locale {
    SCOPE.with(|scope| Locale::try_from_str(&scope.borrow().locale)).unwrap_or(Locale::UNKNOWN)
}

fn moment(at: &Value, length: Option<String>, date: bool, time: bool) -> Result<String, Error> {
    const SHAPE: &str = "a date filter needs a text such as 2026-05-01T12:30:00Z (RFC 3339), or 2026-05-01";
    let text = at.as_str().ok_or_else(|| refuse(SHAPE))?;
    let civil = match text.parse::<Timestamp>() {
        Ok(instant) => {
            let zone = SCOPE.with(|scope| scope.borrow().zone.clone()).unwrap_or(TimeZone::UTC);
            zone.to_datetime(instant)
        }
        // A date alone is a day, the same in every zone.
        Err(_) if !time => text.parse::<civil::Date>().map_err(|_| refuse(SHAPE))?.at(0, 0, 0, 0),
        Err(_) => return Err(refuse(SHAPE)),
    };
    let length = length.as_deref().unwrap_or("medium");
    let part = |number: i8| u8::try_from(number).unwrap_or_default();
    let input = DateTime {
        date: Date::try_new_iso(civil.year().into(), part(civil.month()), part(civil.day()))
            .map_err(|_| refuse(SHAPE))?,
        time: Time::try_new(part(civil.hour()), part(civil.minute()), part(civil.second()), 0)
            .map_err(|_| refuse(SHAPE))?,
    };
    let prefs = locale().into();
    let fields = match length {
        "short" => fieldsets::YMD::short(),
        "medium" => fieldsets::YMD::medium(),
        "long" => fieldsets::YMD::long(),
        _ => return Err(refuse("the length of a date is short, medium or long")),
    };
    let unknown = |_| refuse("the locale has no dates");
    Ok(match (date, time) {
        (true, true) => {
            DateTimeFormatter::try_new(prefs, fields.with_time_hm()).map_err(unknown)?.format(&input).to_string()
        }
        (true, false) => DateTimeFormatter::try_new(prefs, fields).map_err(unknown)?.format(&input.date).to_string(),
        _ => {
            let fields = if length == "long" { fieldsets::T::hms() } else { fieldsets::T::hm() };
            DateTimeFormatter::try_new(prefs, fields).map_err(unknown)?.format(&input.time).to_string()
        }
    })
}

/// A number, or a text that is one: `"1234.50"` keeps its zero.
fn decimal(value: &Value) -> Result<Decimal, Error> {
    const SHAPE: &str = "number and money need a number, or a text such as 1234.50";
    let text = match value.as_str() {
        Some(text) => text.trim().to_owned(),
        None if value.is_number() => written(value).unwrap_or_else(|| value.to_string()),
        None => return Err(refuse(SHAPE)),
    };
    // 1e999999 would be written out.
    if text.len() > 64 || text.contains(['e', 'E']) {
        return Err(refuse(SHAPE));
    }
    let mut decimal: Decimal = text.parse().map_err(|_| refuse(SHAPE))?;
    if value.as_str().is_none() && text.ends_with(".0") && written(value).is_none() {
        decimal.absolute.trim_end();
    }
    Ok(decimal)
}

fn number(value: Value) -> Result<String, Error> {
    let decimal = decimal(&value)?;
    let formatter = DecimalFormatter::try_new(locale().into(), Default::default());
    Ok(formatter.map_err(|_| refuse("the locale has no numbers"))?.format(&decimal).to_string())
}

fn money(amount: &Value, currency: &str) -> Result<String, Error> {
    const SHAPE: &str = "money needs a currency of three letters, such as EUR";
    let decimal = decimal(amount)?;
    if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(refuse(SHAPE));
    }
    let currency = CurrencyType::try_from_str(&currency.to_ascii_lowercase()).map_err(|_| refuse(SHAPE))?;
    let formatter = CurrencyFormatter::try_new_symbol(locale().into(), currency, Default::default());
    let formatter = formatter.map_err(|_| refuse("the locale has no currencies"))?;
    Ok(formatter.format_fixed_decimal(&decimal).to_string())
}

# frozen_string_literal: true

# The outbox as an Active Record model: app/models/outbox_notification.rb.
#
#   Order.transaction do
#     order = Order.create!(params)
#     OutboxNotification.create!(kind: "order_confirmed", recipients: [order.email],
#                                payload: { order_id: order.id }, dedup_key: "order-#{order.id}-confirmed").id
#   end
#
# The mail is sent if that transaction commits, and only then. Outside of a transaction it is enqueued at once. The
# superclass must use the same database as your orders. The columns are the arguments of outbox.enqueue():
# \d+ outbox.notification explains each.
#
# What the outbox refuses raises ActiveRecord::StatementInvalid; its cause (a PG::Error) has SQLSTATE and hint. The
# transaction is over then, as after any error of Postgres.
class OutboxNotification < ApplicationRecord
  self.table_name = "outbox.notification"
  self.primary_key = "id" # made by the outbox; for a repeated dedup_key it is the first one's

  attribute :dedup_ttl, :string # "7 days", 7.days: for Postgres to read

  # Active Record turns a time that it cannot read into nil: the mail would go out at once.
  validate do
    %w[not_before expires_at].each do |name|
      errors.add(name, :invalid) if self[name].nil? && read_attribute_before_type_cast(name).present?
    end
  end

  # The view only takes: it is empty when read, and has nothing to update or to destroy.
  def readonly?
    super || persisted?
  end
end
